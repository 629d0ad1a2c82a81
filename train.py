"""Train, validate, test or predict with one YAML file per run.

usage: python train.py {fit,validate,test,predict} -c configs/METHOD/RUN.yaml [options]
       python train.py export --run_dir RUN [--ckpt_path CKPT]

commands
  fit        train, then test the best checkpoint
  validate   measure a checkpoint on the validation data
  test       measure a checkpoint on the test data
  predict    run a checkpoint's predict_step
  export     write RUN/export, for other programs, from the best checkpoint of a run, or the newest, or a given one

options (each is also a key of the YAML; the command line wins over files, later files over earlier ones)
  -c FILE                  config of the run; repeat it for shared parts such as configs/trainer/ddp.yaml
  --KEY VALUE              any key: --trainer.max_steps 500, --model.optimizer.lr 1e-3, --callbacks.ema.decay 0.99
  --callbacks.NAME null    switch a callback off
  --run_dir DIR            where the run writes; runs/CONFIG/ID if not given
  --resume auto|CKPT       go on from the newest whole checkpoint in --run_dir, or from this one
  --dry_run                check config, data, disk and memory in a few steps; writes nothing
  --wandb MODE             offline (default), online or disabled
  --trackio MODE           disabled (default), or local: record in Trackio's dashboard, too
  --test_after_fit BOOL    test the best checkpoint after training (default true)
  --trust PACKAGE          let configs name classes of this package, too; repeatable, or FEWSTEP_TRUST=ONE,OTHER
  --print_config           print the complete config and stop
  COMMAND --help           every key with its type and default
  --version                print the version

examples
  python train.py fit -c configs/ot_conditional/weather.yaml --dry_run
  python train.py fit -c configs/ot_conditional/weather.yaml --trainer.max_steps 500
  python train.py fit --run_dir runs/weather/ID --resume auto

exit codes
  0          done
  1          failed; a dead rank is named in one line, everything else leaves a traceback
  2          a mistake in a config, in the data or on the command line: one line, before the first step
  130        stopped by Ctrl-C        } the step was finished and checkpoints/last.ckpt written, or the line on stderr
  143        stopped by SIGTERM,      } says that there was nothing to save; go on with --run_dir RUN --resume auto
             or by SIGUSR1 without SLURM
  75         stopped by SIGUSR1 on SLURM, before the time is up: configs/trainer/slurm.sh requeues the job

FEWSTEP_TRACEBACK=1 shows where an error was raised.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from commands.train.start import end_at_signals, start

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "trainer" / "default.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    return start(argv, __doc__, DEFAULT_CONFIG)


if __name__ == "__main__":
    end_at_signals()
    sys.exit(main())
