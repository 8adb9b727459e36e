# test/cli/peers-steps.bats -- twenty steps of every training stage against PyTorch in float64, one at a time.
#
# test/peers/peer_steps.c says what is compared. Two ways to add up in double differ by 1e-12 here. In float, 6e-8 per
# operation make 1e-5 of a step, in single steps far more: of the seeds 1 to 7, TRADES had one of 0.016 and 0.035 with two,
# MART of 0.014 and 0.0005 with two others and one instruction set each, as a ReLU makes that falls on the other side of
# its kink. The seed is one without.

# bats file_tags=slow
setup() {
    load ../helpers
    need_python torch numpy
    STEPS="${BIN%/bin}/test/peer_steps"
    PEER="$ROOT/test/peers/torch_steps.py"
}

# below "LINE" NAME BOUND...: the line names all 20 steps, and each number is below its bound.
below() {
    echo "$1"
    awk -v line="$1" 'BEGIN {
        n = split(line, w, /[ ,]+/)
        if (w[2] != 20) exit 1
        for (i = 1; i < ARGC; i += 2) {
            found = 0
            for (k = 1; k < n; k++)
                if (w[k] == ARGV[i]) { found = 1; if (!(w[k + 1] ~ /^[0-9.e+-]+$/ && w[k + 1] + 0 < ARGV[i + 1] + 0)) exit 1 }
            if (!found) exit 1
        }
    }' "${@:2}"
}

# agrees KIND NAME BOUND...
agrees() {
    "$STEPS" problem "$1" | "$PYTHON" "$PEER" >trace
    below "$("$STEPS" check "$1" <trace)" "${@:2}"
}

@test "HYDRA's steps are PyTorch's: prune and finetune, weights and channels" {
    local kind
    for kind in prune-weight prune-channel finetune-weight finetune-channel; do
        agrees $kind ref 1e-8 float 1e-4
    done
}

@test "R-ADMM's steps are PyTorch's: admm and retrain, weights and channels" {
    local kind
    for kind in admm-weight admm-channel retrain-weight retrain-channel; do
        agrees $kind ref 1e-8 float 1e-4
    done
}

@test "steps of TRADES, MART and free training are PyTorch's" {
    agrees trades ref 1e-8 float 1e-4
    agrees mart ref 1e-8 float 1e-4
    # the noise moves by a sign, which float finds otherwise where the gradient is nearly zero
    agrees free ref 1e-8 float 1e-4 noise 0.01
}

@test "twenty natural steps without a look at the peer end where PyTorch's end; advtrain's do, too" {
    agrees natural ref 1e-6 float 1e-4
    "$STEPS" files .
    advtrain -q --loss natural --batch 16 --epochs 4 --lr 0.05 --momentum 0.9 --weight-decay 1e-3 --const-init \
        --no-shuffle --no-augment -d train.tfrecord -o out.nn net.nn
    # its rounding goes on from step to step
    below "$("$STEPS" last out.nn <trace)" float 1e-3
}
