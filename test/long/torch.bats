# The newest PyTorch and safetensors from PyPI, in an environment of their own ($TORCH_VENV, else a new one), and the
# sizes that cost too much in `make test`. For `make check-long`.
setup_file() {
    local venv=${TORCH_VENV:-$BATS_FILE_TMPDIR/venv}
    if [ ! -x "$venv/bin/python" ]; then
        { python3 -m venv "$venv" && "$venv/bin/pip" install -q torch numpy safetensors; } >&2 ||
            skip "PyTorch cannot be installed from PyPI here"
    fi
    "$venv/bin/python" -c 'import torch; print("# PyTorch", torch.__version__)' >&3
    export NEWEST=$venv/bin/python
}

setup() {
    load ../helpers
    FILES=$ROOT/test/peers/torch_files.py
    PEER=${BIN%/bin}/test
}

same() { # same ARCH IMAGES CASE...
    run "$NEWEST" "$FILES" same "$PEER/peer_run" "$@"
    echo "$output"
    assert_success
}

@test "the newest PyTorch's checkpoints of every kind compute the same" {
    local way cases=()
    for way in half bfloat16 double spread share parameters compiled radmm radmm-imagenet old admm net; do
        cases+=("$way" "$way+legacy")
    done
    same resS 8 "${cases[@]}"
    same vgg6_bn 4 normalized
}

@test "the newest PyTorch loads what we write, strictly and with weights_only, for all architectures" {
    run "$NEWEST" "$FILES" load vgg16_bn resnet18 wrn_28_4 ResNet50
    echo "$output"
    assert_success
}

@test "safetensors reads what we write, and we read what it writes" {
    "$NEWEST" "$FILES" save resnet18 x.pth
    torch2nn -q -o x.nn x.pth
    nn2torch -o ours.safetensors x.nn
    maskapply -q -s uniform:0.5 -o pruned.nn x.nn
    nn2torch --bare -o bare.safetensors pruned.nn
    run "$NEWEST" - <<'END'
import torch
from safetensors.torch import load_file, save_file
x, ours, bare = torch.load("x.pth"), load_file("ours.safetensors"), load_file("bare.safetensors")
assert set(x) == set(ours) == set(bare) and all(torch.equal(x[k], ours[k]) for k in x)
save_file(x, "theirs.safetensors")
END
    assert_success
    torch2nn -q -o y.nn theirs.safetensors
    assert_equal "$(nninfo --tensors y.nn | sort)" "$(nninfo --tensors x.nn | sort)"
}

# Radii at which PGD breaks some of what the network gets right, not all and not nothing.
@test "accuracy under PGD is within 0.2 points of PyTorch's, on 500 images" {
    EPS=16 same vgg16_bn 500 trained24
    EPS=1 same wrn_28_4 500 trained24
    EPS=8 same resnet18 500 trained24
}

@test "ResNet50 under PGD, on 100 images of 64x64" {
    EPS=2 same ResNet50 100 trained40 --input=64x64
}

@test "ResNet50 at 224x224 computes what PyTorch computes" {
    export SIDE=224
    same ResNet50 4 random trained2
}
