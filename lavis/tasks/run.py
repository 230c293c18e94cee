"""`python -m lavis.tasks.run --cfg-path configs/tasks/finetune_visdial.yaml --options run.max_epoch 5`."""

from malmm.train.run import main

if __name__ == "__main__":
    main()
