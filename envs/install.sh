#!/usr/bin/env bash
# Makes the virtual environment of the project: `bash envs/install.sh .venv`, run from the checkout's root.
# PYTHON names the interpreter; otherwise the first of python3.11, 3.12, 3.13, 3.14 and python3 that works is taken.
set -euo pipefail

venv=$1
lock=envs/requirements.lock.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

is_new_enough() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate too_old=""
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        if is_new_enough "$candidate"; then
            if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
                echo "$candidate"
                return
            fi
            too_old="error: $candidate has no venv module: install it (on Debian and Ubuntu the package python3-venv), then run the command again."
        fi
    done
    echo "${too_old:-error: Python 3.11 or newer is needed and ${PYTHON:-none of python3.11 to python3.14 and python3} is not that: install it, or name one with PYTHON=/path/to/python3.}" >&2
    return 1
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "== $venv: a virtual environment of $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

# PyTorch alone keeps its dependencies: which GPU libraries it needs depends on the build that pip chooses here.
torch=$(grep -E '^torch==' "$lock")
echo "== $torch"
"$venv/bin/python" -m pip install "$torch" -c "$lock"

echo "== $lock"
"$venv/bin/python" -m pip install --quiet --no-deps -r "$lock"
"$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation -e .

touch "$venv/.installed"
echo "== $venv is ready"
