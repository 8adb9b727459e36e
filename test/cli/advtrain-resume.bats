# advtrain: interrupted anywhere, the same command goes on, and network and log are those of a run without
# interruption.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 500 60 --epochs 1
    fashion_pruned
}

setup() {
    load ../helpers
    load ../fashion
    load ../interrupt
    D=$BATS_FILE_TMPDIR
    # 2 epochs of 4 steps, the last one smaller, and the probe, of 2 batches, clean and attacked; all that can be
    # saved is
    TRAIN="advtrain -q --threads 1 -d $D/train.tfrecord -e $D/test.tfrecord --batch 32 --limit 100 --epochs 2
        --eps 0.1 --step 0.05 --steps 2 --save-every 0"
    # train NAME OPTION...: to NAME.nn and NAME.jsonl. A program, so that env and kill can have to do with it.
    printf '#!/bin/sh\nname=$1\nshift\nexec %s --log "$name.jsonl" -o "$name.nn" "$@"\n' "$(echo $TRAIN)" >train
    chmod +x train
    PATH=$PWD:$PATH
}

# Both products of b are those of a, and nothing else of b is left.
assert_same_run() { # assert_same_run a b
    cmp "$1.nn" "$2.nn"
    cmp "$1.jsonl" "$2.jsonl"
    assert_equal "$(find . -name "*$2.*" | LC_ALL=C sort | tr '\n' ' ')" "./$2.jsonl ./$2.nn "
}

@test "advtrain: killed in attacks, in writing the state, before and after its rename: the same bytes in the end" {
    train a --arch resS
    local at threads=1
    # before the first save; in the first save; between saves; in the probe; in the second epoch
    for at in attack:3 write:1 rename:1 attack:9 renamed:2 write:3 renamed:5 attack:4 write:2; do
        killed "$at" train b --arch resS --threads $((threads = 3 - threads))
        assert_not_exists b.nn
    done
    train b --arch resS
    assert_same_run a b
}

@test "advtrain: killed in writing the network, or when it is there and the state still is, too" {
    train a --arch resS
    local at
    # 8 steps, of which 6 are saved by themselves; 2 probes of 2 batches each, saved before each; 2 ends of epochs
    for at in write rename renamed; do
        killed "$at:17" train b --arch resS
        assert_exists b.nn.state
        [ "$at" = renamed ] || assert_not_exists b.nn
        # finished: what goes on from here passes no attack any more
        HERACLES_CRASH=attack:1 train b --arch resS
        assert_same_run a b
        rm b.*
    done
}

@test "advtrain: every stage, optimiser and kind of attack goes on" {
    local o
    for o in "--stage prune $D/planned.nn" "--stage prune --freeze-bn $D/planned.nn" \
        "--stage finetune $D/pruned.nn" "--optimizer adam --lr 0.001 --loss fgsm-rs $D/net.nn" "--augment crop-flip $D/net.nn" \
        "--attack-bn batch+update --log-clean $D/net.nn" "--loss natural --schedule cosine-epoch $D/net.nn" \
        "--warmup-epochs 1 --warmup-steps 3 --epochs 1 $D/net.nn" "--optimizer rmsprop --lr 0.001 $D/net.nn" \
        "--stage admm --admm-every 1 --rho 0.1 $D/planned.nn" "--loss trades --nesterov $D/net.nn" \
        "--stage prune --loss mart $D/planned.nn" "--stage prune --scores snip --loss free --repeats 2 $D/planned.nn" \
        "--loss free --repeats 2 --reset-noise $D/net.nn" "--loss trades-l2 --eps 0.5 --lr 0.01 $D/net.nn" \
        "--extra $D/test.tfrecord --augment resized-flip $D/net.nn" "--select best --stage prune $D/planned.nn"; do
        train a $o
        killed write:3 train b $o
        killed renamed:6 train b $o
        killed rename:5 train b $o
        train b $o
        assert_same_run a b
        rm b.*
    done
}

@test "advtrain: a signal is status 75 and a line that says how to go on; also within one long attack" {
    local o="--arch resS --epochs 60" signal
    train a $o
    for signal in INT TERM INT; do
        signalled $signal b.nn.state train b $o
        assert_not_exists b.nn
        assert_not_exists .b.nn.partial
    done
    train b $o
    assert_same_run a b

    # one step would take many minutes; statistics that moved in the dropped step do not count
    o="--arch resS --attack-bn batch+update --steps 100000"
    signalled TERM c.jsonl train c $o
    assert_regex "$stderr" "interrupted in epoch 1, step 0; the state is in c.nn.state:"
    run -1 --separate-stderr train c --arch resS --attack-bn batch+update --steps 2
    assert_regex "$stderr" "--steps was 100000, now 2"
}

@test "advtrain: a signal in the middle of a step's backward pass: the step does not count" {
    # 4 steps an epoch; resS has more than eight layers, so the ninth one is passed in the second step at the latest
    local o="--arch resS --loss natural --save-every 60" at
    train a $o
    for at in 3 9 20; do
        run -75 --separate-stderr env HERACLES_CRASH="backward:$at:TERM" train b $o
        assert_regex "$stderr" "^advtrain: interrupted in epoch 1, step [0-3]; the state is in b.nn.state: run"
        assert_not_exists b.nn
    done
    train b $o
    assert_same_run a b
}

@test "advtrain: a signal while it reads its inputs ends it at once; the state stays, nothing else is left" {
    local signal pid
    train a --arch resS
    killed write:3 train b --arch resS
    rm -f .b.nn.state.partial .b.nn.partial # what a killed process leaves, and the next one takes over
    cp b.nn.state state
    mkfifo slow
    for signal in INT TERM; do
        env --default-signal=INT advtrain -d slow --arch resS -o b.nn &
        pid=$!
        waiting advtrain $pid
        leaves $signal $pid
        assert_equal "$status" $((128 + $(kill -l $signal)))
        cmp b.nn.state state
        assert_equal "$(find . -name '*b.nn*')" ./b.nn.state
    done
    train b --arch resS
    assert_same_run a b
}

@test "advtrain: finished epochs are not done again, and stderr says where it goes on" {
    killed write:9 $TRAIN --log b.jsonl -o b.nn --arch resS # in the second epoch
    assert_equal "$(wc -l <b.jsonl)" 2
    run --separate-stderr advtrain --threads 1 -d "$D/train.tfrecord" -e "$D/test.tfrecord" --batch 32 --limit 100 \
        --epochs 2 --eps 0.1 --step 0.05 --steps 2 --arch resS --log b.jsonl -o b.nn
    assert_success
    assert_regex "$stderr" "b.nn.state: going on in epoch 2 behind step [0-4]"
    assert_equal "$(grep -c "epoch 1/2" <<<"$stderr")" 0
    assert_equal "$(grep -c "epoch 2/2" <<<"$stderr")" 2
    assert_equal "$(pick b.jsonl '[(e["epoch"], e["split"]) for e in l]')" \
        "[(1, 'train'), (1, 'eval'), (2, 'train'), (2, 'eval')]"
}

@test "advtrain: a log that was lost, cut or swapped meanwhile is whole in the end" {
    train a --arch resS
    local spoil
    for spoil in "rm b.jsonl" "truncate -s 50 b.jsonl" "cp $D/net.nn b.jsonl" "truncate -s +9 b.jsonl"; do
        killed write:9 train b --arch resS
        $spoil
        train b --arch resS
        assert_same_run a b
        rm b.*
    done
}

@test "advtrain: the state of another run is refused by name, and kept until --restart" {
    local o change
    killed write:3 train b --arch resS
    cp b.nn.state state
    for o in "--lr 0.05|--lr was 0.1, now 0.05" "--epochs 3|--epochs was 2, now 3" "--seed 2|--seed was 1, now 2" \
        "--limit 90|--limit was 100, now 90" "--eval-limit 7|--eval-limit was 1000, now 7" \
        "--log-clean|--log-clean was false, now true" "-d $D/test.tfrecord|input 'data' has changed" \
        "-e $D/train.tfrecord|input 'eval' has changed"; do
        run --separate-stderr train b --arch resS ${o%|*}
        assert_refused b.nn
        assert_equal "$stderr" "advtrain: b.nn.state: belongs to another run: ${o#*|}; --restart discards it"
        cmp b.nn.state state
    done
    run --separate-stderr train b "$D/net.nn"
    assert_refused b.nn
    train a --arch resS --lr 0.05
    train b --arch resS --lr 0.05 --restart
    assert_same_run a b

    killed write:3 train b "$D/net.nn"
    run --separate-stderr train b "$D/pruned.nn" --stage finetune
    assert_refused .b.nn
    assert_regex "$stderr" "--stage was \"pretrain\", now \"finetune\""
    run --separate-stderr env HERACLES_ISA=v2 $TRAIN -o b.nn "$D/net.nn"
    # where v2 is all there is, nothing has changed
    [ "$status" -eq 0 ] || assert_regex "$stderr" "kernels was v[34], now v2"
}

@test "advtrain: threads, paths and --save-every are no other run" {
    train a --arch resS
    killed write:3 train b --arch resS
    ln -s "$D/train.tfrecord" other.tfrecord
    train b --arch resS --threads 2 --save-every 1000 -d other.tfrecord --quiet
    assert_same_run a b
}

@test "advtrain: a damaged state is refused in one line, and --restart begins again" {
    train a --arch resS
    killed write:3 train b --arch resS
    local size at
    size=$(stat -c %s b.nn.state)
    cp b.nn.state state
    for at in 0 7 8 16 20 60 $((size / 2)) $((size - 1)); do
        cp state b.nn.state
        printf '\xff' | dd of=b.nn.state bs=1 seek="$at" conv=notrunc status=none
        run --separate-stderr train b --arch resS
        assert_refused b.nn
        assert_regex "$stderr" "^advtrain: b.nn.state: .*; --restart discards it"
        head -c "$at" state >b.nn.state
        run --separate-stderr train b --arch resS
        assert_refused b.nn
        assert_regex "$stderr" "^advtrain: b.nn.state: .*; --restart discards it"
    done
    train b --arch resS --restart
    assert_same_run a b
}

@test "advtrain: no state beside stdout or a pipe" {
    train a --arch resS
    $TRAIN --arch resS -o - >b.nn
    cmp a.nn b.nn
    $TRAIN --arch resS -o /dev/null
    mkfifo fifo
    cat fifo >c.nn &
    $TRAIN --arch resS -o fifo
    wait $!
    cmp a.nn c.nn
    assert_equal "$(find . /dev -maxdepth 1 -name '*.state')" ""
}

@test "advtrain: two at once do not make the same network" {
    local pid
    advtrain -q --threads 1 --arch resS -d "$D/train.tfrecord" --epochs 100000 --loss natural -o b.nn --log b.jsonl &
    pid=$!
    until [ -s b.jsonl ]; do
        kill -0 "$pid" || fail "it ended"
        sleep 0.02
    done
    run --separate-stderr train b --arch resS
    assert_equal "$status" 1
    assert_regex "$stderr" "^advtrain: b.nn: another process is writing it now"
    kill -TERM "$pid"
    wait "$pid" || assert_equal $? 75
    [ "$(wc -l <b.jsonl)" -ge 1 ]
}
