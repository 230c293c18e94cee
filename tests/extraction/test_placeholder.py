from hypothesis import given
from hypothesis import strategies as st

from extraction.placeholder import placeholder_picture

IDS = st.integers(0, 10**6)


@given(image_id=IDS, size=st.sampled_from([32, 56, 224]))
def test_the_same_id_gives_the_same_picture(image_id: int, size: int) -> None:
    first, second = placeholder_picture(image_id, size), placeholder_picture(image_id, size)
    assert first.mode == "RGB" and first.size == (size, size)
    assert first.tobytes() == second.tobytes()


def test_a_thousand_ids_give_a_thousand_pictures() -> None:
    assert len({placeholder_picture(image_id, 56).tobytes() for image_id in range(1000)}) == 1000
