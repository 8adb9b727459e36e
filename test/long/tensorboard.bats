# test/long/tensorboard.bats -- TensorBoard opens what advtrain --tensorboard writes: its own reader, EventAccumulator,
# finds every number of the log, also behind an interruption. TensorBoard comes from PyPI, into an environment that is
# kept in build/tensorboard (TENSORBOARD=DIR for another one).

setup_file() {
    load ../helpers
    load ../fashion
    export TB=${TENSORBOARD:-$ROOT/build/tensorboard}
    [ -x "$TB/bin/python" ] || python3 -m venv "$TB"
    "$TB/bin/python" -c 'import tensorboard' 2>/dev/null || "$TB/bin/pip" install -q tensorboard >&2 || true
    fashion_set 200 60 --epochs 1
}

setup() {
    load ../helpers
    load ../interrupt
    "$TB/bin/python" -c 'import tensorboard' 2>/dev/null || skip "TensorBoard cannot be had here"
    D=$BATS_FILE_TMPDIR
    TRAIN="advtrain -q --threads 1 -d $D/train.tfrecord -e $D/test.tfrecord --batch 32 --limit 100 --epochs 3
        --eps 0.1 --step 0.05 --steps 2 --save-every 0"
}

# same LOG DIR: TensorBoard finds the log's numbers in DIR, those and no others, one per epoch
same() {
    "$TB/bin/python" - "$1" "$2" <<'P'
import json, struct, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
def flat(prefix, j):
    for k, v in j.items():
        if isinstance(v, dict):
            yield from flat(f"{prefix}/{k}", v)
        elif k not in ("epoch", "split") and v is not None:
            yield f"{prefix}/{k}", struct.unpack("<f", struct.pack("<f", v))[0]
want = {}
for line in map(json.loads, open(sys.argv[1])):
    for tag, value in flat(line["split"], line):
        want.setdefault(tag, []).append((line["epoch"], value))
events = EventAccumulator(sys.argv[2], size_guidance={"scalars": 0})
events.Reload()
got = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
assert got == want, (got, want)
assert {"train/loss", "train/robust", "train/lr", "eval/clean", "eval/robust"} <= set(got)
print(len(got), "scalars of", len(got["train/loss"]), "epochs")
P
}

@test "TensorBoard finds the log's numbers, of training and of ADMM's layers" {
    $TRAIN --log log.jsonl --tensorboard tb -o a.nn "$D/net.nn"
    run -0 same log.jsonl tb
    assert_output "7 scalars of 3 epochs"
    maskapply -q --plan -s uniform:0.3 -o planned.nn "$D/net.nn"
    $TRAIN --stage admm --log admm.jsonl --tensorboard admm -o b.nn planned.nn
    run -0 same admm.jsonl admm
    refute_output "7 scalars of 3 epochs"
}

@test "TensorBoard finds them once each behind a run that was killed and gone on with" {
    $TRAIN --log whole.jsonl -o a.nn "$D/net.nn"
    killed write:9 $TRAIN --log log.jsonl --tensorboard tb -o b.nn "$D/net.nn"
    $TRAIN --log log.jsonl --tensorboard tb -o b.nn "$D/net.nn"
    cmp whole.jsonl log.jsonl
    run -0 same whole.jsonl tb
    assert_output "7 scalars of 3 epochs"
}
