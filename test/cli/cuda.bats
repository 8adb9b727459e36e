# --device: what is refused, and that whole programs on the device (the shim of test/shim) do what they do on the CPU.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 600 60 --epochs 6
    fashion_pruned
}

setup() {
    load ../helpers
    load ../fashion
    load ../interrupt
    D=$BATS_FILE_TMPDIR
    cd "$D" || return
    SHIM=$(dirname "$BIN")/test/heracles-cuda-shim.so
    ATTACK="--eps 0.06 --step 0.02"
    EVAL="adveval -q --threads 1 -d test.tfrecord $ATTACK --limit 20 --batch 10"
    TRAIN="advtrain -q --threads 1 -d train.tfrecord --limit 20 --batch 4 --steps 2 --lr 0.01 --eps 0.001 --step 0.0005"
}

on_shim() { # on_shim COMMAND...: with the shim as the plug-in
    HERACLES_CUDA=$SHIM "$@" --device cuda
}

refused_device() { # refused_device REGEX COMMAND...: one line, status 1, nothing left behind
    local regex=$1
    shift
    run --separate-stderr "$@" --device cuda -o refused.json net.nn
    assert_equal "$status" 1
    assert_regex "$stderr" "$regex"
    assert_equal "$(wc -l <<<"$stderr")" 1
    assert_file_not_exist refused.json
}

@test "--device: what is no device is wrong usage" {
    for name in gpu cuda: cuda:x cuda:-1 ''; do
        run --separate-stderr $EVAL --device "$name" net.nn
        assert_equal "$status" 2
        assert_regex "$stderr" '^adveval: --device .*: not one of cpu, cuda, cuda:N'
    done
    run --separate-stderr $EVAL --fast net.nn
    assert_equal "$status" 2
    run --separate-stderr $EVAL --device cuda --profile net.nn
    assert_equal "$status" 2
}

@test "--device cuda: not built, not loadable, of another kind: one line each" {
    export HERACLES_CUDA=$D/nowhere.so
    refused_device '^adveval: --device cuda: .*nowhere\.so is not built' $EVAL
    echo rubbish >rubbish.so
    export HERACLES_CUDA=$D/rubbish.so
    refused_device '^adveval: --device cuda: the plug-in cannot be loaded: .*rubbish\.so' $EVAL
}

@test "--device cuda: no driver, no device, no such device, a driver too old: one line each" {
    export HERACLES_CUDA=$SHIM
    HERACLES_SHIM_DRIVER=0 refused_device '^adveval: --device cuda: no device was found \(there is no NVIDIA driver\)$' $EVAL
    HERACLES_SHIM_DEVICES=0 refused_device '^adveval: --device cuda: no device was found \(the driver knows none\)$' $EVAL
    HERACLES_SHIM_DRIVER=12040 refused_device \
        '^adveval: --device cuda: the driver is too old: it knows CUDA 12\.4, this plug-in needs 13\.0$' $EVAL
    run --separate-stderr $EVAL --device cuda:3 net.nn
    assert_equal "$status" 1
    assert_equal "$stderr" "adveval: --device cuda:3: there is no device 3, the driver knows 1"
}

@test "--device cuda: out of memory says what is needed and what is free, and that much is enough" {
    export HERACLES_CUDA=$SHIM
    HERACLES_SHIM_MEMORY=2000000 refused_device \
        '^adveval: cuda:0: out of memory: batches of 10 need [0-9]+ bytes besides the work memory of convolutions, 199[0-9]+ are free; a smaller --batch may help$' $EVAL
    local need=$(sed 's/.* need \([0-9]*\) .*/\1/' <<<"$stderr")
    HERACLES_SHIM_MEMORY=$((need + 999)) refused_device " need $need bytes .* $((need - 1)) are free;" $EVAL # 1000: a convolution's
    HERACLES_SHIM_MEMORY=$((need + 1000)) $EVAL --attacks clean --device cuda -o enough.json net.nn
    HERACLES_SHIM_WORK=3000000 HERACLES_SHIM_MEMORY=3000000 refused_device \
        "^adveval: cuda:0: layer '[a-z0-9.]+': out of memory for the work of convolutions: 3000000 bytes were asked for, [0-9]+ are free; a smaller --batch may help$" $EVAL
}

@test "the plug-in that nvcc built says that there is no device, where there is none" {
    [ -f "$BIN/heracles-cuda.so" ] || skip "heracles-cuda.so was not built"
    [ ! -e /dev/nvidiactl ] || skip "this machine may have a GPU"
    refused_device '^adveval: --device cuda: (no device was found|the plug-in cannot be loaded: libcu)' $EVAL
}

@test "the plug-in holds code for every compute capability from 7.5 to 12.0, and PTX for later ones" {
    [ -f "$BIN/heracles-cuda.so" ] || skip "heracles-cuda.so was not built"
    "$BATS_TEST_DIRNAME/../fatbin" "$BIN/heracles-cuda.so" | cut -d' ' -f1,2 >code
    for sm in 75 80 86 87 88 89 90 100 103 110 120; do
        grep -qx "elf sm_$sm" code || fail "no code for $sm: $(cat code)"
    done
    grep -qx "ptx sm_120" code
    [ -z "$(command -v cuobjdump)" ] || assert_equal "$(cuobjdump --list-elf "$BIN/heracles-cuda.so" | grep -o 'sm_[0-9]*' | sort -u)" \
        "$(sed -n 's/^elf //p' code | sort -u)"
}

@test "every kernel opens with its grid, its memory traffic and its expected bound" {
    python3 - "$BATS_TEST_DIRNAME"/../../lib/compute/cuda/*.cu <<'PY'
import re, sys
kernels, bad = 0, []
for name in sys.argv[1:]:
    text = open(name).read()
    for k in re.finditer(r"__global__ void (\w+)", text):
        kernels += 1
        before = text[: text.rindex("\n", 0, k.start()) + 1]
        note = re.search(r"/\*((?:(?!\*/).)*)\*/\n$", before, re.S)
        said = re.sub(r"[ \n*]+", " ", note.group(1)) if note else ""
        if not (re.search(r"thread|block", said, re.I) and "Traffic: " in said and re.search(r"bound: ", said, re.I)):
            bad.append("%s: %s: %s" % (name, k.group(1), said))
assert kernels > 40 and not bad, "\n".join(bad)
PY
}

alike() { # alike N: cpu.json and cuda.json count nearly the same under N attacks, of which the first is none
    python3 - "$1" <<'PY'
import json, sys
a, b = ([k["correct"] for k in json.load(open(f))["attacks"]] for f in ("cpu.json", "cuda.json"))
assert len(a) == len(b) == int(sys.argv[1]) and 0 < max(a[1:]) < a[0], a
assert all(abs(x - y) <= 2 for x, y in zip(a, b)), (a, b)
PY
}

@test "adveval: every attack counts on the device what it counts on the CPU" {
    local list=clean,fgsm,pgd5,cw3,apgd-ce,apgd-dlr,fab-t,square
    $EVAL --attacks $list --iterations 3 --queries 5 --targets 1 -o cpu.json pruned.nn
    on_shim $EVAL --attacks $list --iterations 3 --queries 5 --targets 1 -o cuda.json pruned.nn
    # an image whose two largest logits are equal but for rounding may go either way
    alike 8
    $EVAL --bn batch --attacks clean,pgd3 -o cpu.json net.nn
    on_shim $EVAL --bn batch --attacks clean,pgd3 -o cuda.json net.nn
    alike 2
}

near() { # near A B BOUND: losses of two logs, line by line, within a share
    python3 - "$@" <<'PY'
import json, sys
a, b = ([l for l in map(json.loads, open(f)) if "loss" in l] for f in sys.argv[1:3])
assert len(a) == len(b) > 0
for x, y in zip(a, b):
    assert abs(x["loss"] - y["loss"]) <= float(sys.argv[3]) * x["loss"], (x, y)
PY
}

# bats test_tags=slow
@test "advtrain: 20 steps of every stage give the CPU's losses but for rounding" {
    # The attack takes the sign of gradients: rounding moves a pixel by a whole step, and training makes much of it. So
    # steps are small: seen, with the CPU's kernels v2, v3 and v4, at most 5e-7 of the loss.
    for stage in "pretrain net.nn" "prune planned.nn" "finetune pruned.nn" "admm planned.nn --rho 0.01"; do
        set -- $stage
        $TRAIN --stage "$1" --limit 40 --batch 2 --epochs 1 --log "cpu-$1.jsonl" -o cpu.nn "${@:2}"
        on_shim $TRAIN --stage "$1" --limit 40 --batch 2 --epochs 1 --log "cuda-$1.jsonl" -o cuda.nn "${@:2}"
        near "cpu-$1.jsonl" "cuda-$1.jsonl" 1e-4
    done
    for loss in trades mart free natural; do
        $TRAIN --loss $loss --epochs 1 --log "cpu-$loss.jsonl" -o cpu.nn net.nn
        on_shim $TRAIN --loss $loss --epochs 1 --log "cuda-$loss.jsonl" -o cuda.nn net.nn
        near "cpu-$loss.jsonl" "cuda-$loss.jsonl" 1e-4
    done
}

@test "advtrain: killed on the device it goes on there with the same bits" {
    on_shim $TRAIN --epochs 2 --log whole.jsonl -o whole.nn net.nn
    run env HERACLES_CUDA="$SHIM" HERACLES_CRASH=write:4 $TRAIN --device cuda --epochs 2 --save-every 0 --log again.jsonl -o again.nn net.nn
    assert_equal "$status" 137
    on_shim $TRAIN --epochs 2 --save-every 0 --log again.jsonl -o again.nn net.nn
    cmp whole.nn again.nn
}

@test "advtrain: a signal within an attack on the device drops the step, running statistics too" {
    local o="--epochs 2 --attack-bn batch+update" at
    on_shim $TRAIN $o -o whole.nn net.nn
    for at in attack:2 attack:7; do # in the first step, and in the third
        run --separate-stderr env HERACLES_CUDA="$SHIM" HERACLES_CRASH=$at:TERM $TRAIN --device cuda $o -o again.nn net.nn
        assert_equal "$status" 75
    done
    on_shim $TRAIN $o -o again.nn net.nn
    cmp whole.nn again.nn
}

@test "advtrain: begun on one device, a stage goes on on the other with the CPU's numbers but for rounding" {
    # Saved after every step; the third save is cut short. Bounds: as for 20 steps above.
    local stage from to
    for stage in "pretrain net.nn" "prune planned.nn --optimizer adam" "admm planned.nn --rho 0.01 --admm-every 1"; do
        set -- $stage
        $TRAIN --stage "$1" --epochs 2 --log cpu.jsonl -o cpu.nn "${@:2}"
        for from in cpu cuda; do
            to=$([ $from = cpu ] && echo cuda || echo cpu)
            local again="$TRAIN --stage $1 --epochs 2 --save-every 0 --log mixed.jsonl -o mixed.nn ${*:2}"
            HERACLES_CUDA=$SHIM killed write:4 $again --device $from
            HERACLES_CUDA=$SHIM $again --device $to
            near cpu.jsonl mixed.jsonl 1e-4
            rm mixed.nn mixed.jsonl
        done
    done
}

@test "adveval: begun on one device, a measurement goes on on the other" {
    local from to at list=clean,pgd3,apgd-ce,square
    measure() { $EVAL --attacks $list --iterations 3 --queries 5 --save-every 0 "$@" pruned.nn; }
    measure -o cpu.json
    for at in write:2 write:5; do # in the first attack; in the strong ones
        for from in cpu cuda; do
            to=$([ $from = cpu ] && echo cuda || echo cpu)
            HERACLES_CUDA=$SHIM killed $at $EVAL --attacks $list --iterations 3 --queries 5 --save-every 0 --device $from -o cuda.json pruned.nn
            HERACLES_CUDA=$SHIM measure --device $to -o cuda.json
            alike 4
            rm cuda.json
        done
    done
}

@test "adveval --serve: networks whose batch norm is recalibrated are, on the device, those of the CPU" {
    export HERACLES_CUDA=$SHIM
    local serve="adveval --serve --threads 1 -r weight -d test.tfrecord $ATTACK --steps 2 --limit 40 --batch 10 --bn recalibrate"
    local device kept
    kept=$($serve net.nn </dev/null | python3 -c 'import json, sys; print([l["n"] // 3 for l in json.load(sys.stdin)["layers"]])')
    for device in cpu cuda; do
        printf '{"id":1,"kept":%s}\n{"id":2,"kept":%s,"batches":[1,3]}\n' "$kept" "$kept" |
            $serve --device $device net.nn >$device.replies
    done
    # an image whose two largest logits are equal but for rounding may go either way
    python3 - <<'PY'
import json
a, b = ([json.loads(l) for l in open(f)][1:] for f in ("cpu.replies", "cuda.replies"))
assert len(a) == len(b) == 2 and a[0]["clean"] > 10, (a, b)
for x, y in zip(a, b):
    assert x["n"] == y["n"] and all(abs(x[k] - y[k]) <= 1 for k in ("clean", "robust")), (x, y)
PY
}

@test "ddpg-search: on the device a small search is the CPU's, and goes on where one with the other device stopped" {
    export HERACLES_CUDA=$SHIM
    nninfo --format json net.nn >layers.json
    local serve="adveval --serve --threads 1 -r weight -d test.tfrecord $ATTACK --steps 2 --limit 20 --batch 10" device
    search() { # search DEVICE: to s.json and s/, with the evaluator there
        ddpg-search -q -l layers.json -e "$BIN/$serve --device $1 $D/net.nn" -t 0.5 --hidden 4 --batch 4 --warmup 2 \
            --episodes 2 --csv-dir s -o s.json
    }
    for device in cpu cuda; do
        mkdir s
        search $device
        mv s $device.search
    done
    mkdir s
    HERACLES_CRASH=write:2 run search cpu
    assert_equal "$status" 137
    search cuda
    # the same strategies as long as the same was learnt; of twenty images one or two may go either way
    python3 - <<'PY'
def rows(name):
    return [line.rstrip("\n").split("\t") for line in open(name + "/Episode_wise_Rewards.csv")]
a = rows("cpu.search")
assert len(a) == 5
for other in ("cuda.search", "s"):
    b = rows(other)
    assert len(b) == len(a) and b[0] == a[0]
    for x, y in zip(a[1:], b[1:]):
        assert x[-1] == y[-1], (x, y)
        assert all(abs(float(u) - float(v)) <= 0.1 for u, v in zip(x[3:5], y[3:5])), (x, y)
        if x != y and float(x[0]) >= 2: # what is learnt from here on may differ
            break
PY
    assert_equal "$(pick s.json 'len(j["layers"])')" "$(pick layers.json 'len(j["layers"])')"
}
