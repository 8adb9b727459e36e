# test/long/autoattack.bats -- every attack, AutoAttack and each of its parts against torchattacks (from the registry, or
# where PYTHON finds it; test/peers/torchattacks.bash), image by image, from the same starting points where the attack
# allows: every one within half a point. Square draws other squares there; C&W is compared with itself written again.
#
# Fewer targets and queries than the published 9 and 5,000, on both sides, so that the file takes minutes: a further
# target is the same code with another class; the squares have shrunk four times within 1,000 queries; and the schedule
# of APGD's steps depends on the iterations, which on Fashion-MNIST are the published 100. `AUTOATTACK_PUBLISHED=1
# bats test/long/autoattack.bats` takes all three as published, for that network. Square is also compared with itself
# written again, which draws the same squares.

setup() {
    load ../helpers
    load ../fashion
    load ../peers/torchattacks
    torchattacks_python "${BUILD:-$ROOT/build}/torchattacks" || skip "no Python here has torch and torchattacks"
}

# compare ARCH TRAIN TEST SETTINGS [OPTION]...: train ARCH on TRAIN images as the options say, attack TEST images with
# the settings, and hold torchattacks against the outcome.
compare() {
    local arch=$1 settings=$4
    fashion . "$2" "$3"
    advtrain -q --arch "$arch" -d train.tfrecord --eps 0.1 --weight-decay 5e-4 --schedule cosine "${@:5}" -o net.nn
    nn2torch -q -o net.pth net.nn
    adveval -q -d test.tfrecord --eps 0.1 --attacks clean,fgsm,pgd20,cw,apgd-ce,apgd-dlr,apgd-t,fab-t,square,aa \
        $settings --outcomes out.tsv -o eval.json net.nn
    # where nearly all or nearly no images break, agreement would mean little
    assert_equal "$(pick eval.json '[20 <= a["accuracy"] <= 70 for a in j["attacks"] if a["name"] == "aa"]')" "[True]"
    against torchattacks
}

against() { # against PEER [ATTACK]...
    run "$PYTHON" "$ROOT/test/peers/strong_attacks.py" "$1" 0.5 net.pth test.tfrecord eval.json out.tsv "${@:2}"
    echo "$output" | sed 's/^/# /' >&3
    assert_success
}

@test "every attack is within half a point of torchattacks on 1,000 images of Fashion-MNIST's network" {
    local settings="--iterations 100 --targets 3 --queries 1000"
    [ -z "${AUTOATTACK_PUBLISHED:-}" ] || settings=
    compare resS 10000 1000 "$settings" --step 0.025 --batch 128 --steps 7 --epochs 2 --lr 0.1 --warmup-steps 40
    against own square
}

# Half a point of 50 images is none. FGSM from a random start makes a robust network for the price of two passes.
@test "every attack leaves as many of 50 images of a ResNet18 right as torchattacks does" {
    compare resnet18 2000 50 "--iterations 20 --targets 2 --queries 200" --loss fgsm-rs --step 0.125 --batch 64 \
        --epochs 2 --lr 0.05 --warmup-steps 8
}
