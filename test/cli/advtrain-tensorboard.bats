# advtrain --tensorboard: the log's numbers as TensorBoard events, also behind interruptions.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 200 60 --epochs 1
}

setup() {
    load ../helpers
    load ../fashion
    load ../interrupt
    D=$BATS_FILE_TMPDIR
    EVENTS=events.out.tfevents.heracles
    TRAIN="advtrain -q --threads 1 -d $D/train.tfrecord -e $D/test.tfrecord --batch 32 --limit 100 --epochs 2
        --eps 0.1 --step 0.05 --steps 2 --save-every 0"
    maskapply -q --plan -s uniform:0.3 -o planned.nn "$D/net.nn"
}

# events FILE: one line of JSON per event, {"step", "version" or "values"}; every check sum is verified
events() {
    PYTHONPATH=$ROOT/test python3 - "$1" <<'P'
import json, struct, sys, time
import tfrecord

def varint(b, at):
    v = shift = 0
    while True:
        v |= (b[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if b[at - 1] < 128:
            return v, at

def fields(b):
    at = 0
    while at < len(b):
        tag, at = varint(b, at)
        if tag & 7 == 2:
            n, at = varint(b, at)
            yield tag >> 3, b[at:at + n]
            at += n
        elif tag & 7 == 0:
            v, at = varint(b, at)
            yield tag >> 3, v
        else:
            n = {1: 8, 5: 4}[tag & 7]
            yield tag >> 3, struct.unpack("<d" if n == 8 else "<f", b[at:at + n])[0]
            at += n

for data in tfrecord.records(sys.argv[1], 1000):
    event = dict(fields(data))
    assert abs(time.time() - event[1]) < 86400, event[1]
    out = {"step": event.get(2)}
    if 3 in event:
        out["version"] = event[3].decode()
    if 5 in event:
        values = [dict(fields(v)) for n, v in fields(event[5]) if n == 1]
        out["values"] = {v[1].decode(): v[2] for v in values}
    print(json.dumps(out))
P
}

@test "advtrain --tensorboard: one event per line of the log, with all its numbers" {
    $TRAIN --stage admm --log log.jsonl --tensorboard new/tb -o a.nn planned.nn
    events new/tb/$EVENTS >events.jsonl
    assert_equal "$(head -1 events.jsonl)" '{"step": null, "version": "brain.Event:2"}'
    run python3 - <<'P'
import json, struct
log = [json.loads(l) for l in open("log.jsonl")]
events = [json.loads(l) for l in open("events.jsonl")][1:]
assert len(log) == len(events) == 6, (len(log), len(events))
def flat(prefix, j):
    for k, v in j.items():
        if isinstance(v, dict):
            yield from flat(f"{prefix}/{k}", v)
        elif k not in ("epoch", "split") and v is not None:
            yield f"{prefix}/{k}", struct.unpack("<f", struct.pack("<f", v))[0]
for l, e in zip(log, events):
    assert e["step"] == l["epoch"], (e, l)
    assert e["values"] == dict(flat(l["split"], l)), (e, l)
assert any(k.startswith("admm/gap/") for k in events[1]["values"])
P
    assert_success
    $TRAIN --stage admm -o b.nn planned.nn
    cmp a.nn b.nn # events are no part of the network
}

@test "advtrain --tensorboard: killed, cut or spoilt: in the end no event twice and none missing" {
    local spoil
    $TRAIN --tensorboard a -o a.nn "$D/net.nn"
    events a/$EVENTS >want
    for spoil in true "rm b/$EVENTS" "truncate -s 70 b/$EVENTS" "truncate -s +9 b/$EVENTS" "cp $D/net.nn b/$EVENTS"; do
        killed write:9 $TRAIN --tensorboard b -o b.nn "$D/net.nn"
        $spoil
        $TRAIN --tensorboard b -o b.nn "$D/net.nn"
        cmp a.nn b.nn
        events b/$EVENTS >got
        cmp want got
        rm -r b b.nn
    done
    # a run of its own replaces what an older one left
    $TRAIN --tensorboard a --epochs 1 -o c.nn "$D/net.nn"
    assert_equal "$(events a/$EVENTS | wc -l)" 3
}

@test "advtrain --tensorboard: a directory that cannot be written is refused before the training" {
    run --separate-stderr $TRAIN --epochs 100000 --tensorboard "$D/net.nn/tb" -o out.nn "$D/net.nn"
    assert_refused out.nn
    mkdir -p tb/$EVENTS
    run --separate-stderr $TRAIN --epochs 100000 --tensorboard tb -o out.nn "$D/net.nn"
    assert_refused out.nn
    assert_regex "$stderr" "^advtrain: tb/$EVENTS: "
}
