# test/cli/peers-torch2nn.bats -- checkpoints that PyTorch wrote, converted, against PyTorch itself: logits to 1e-4,
# the same classes, the same accuracy clean and under PGD from the same starting noise (test/peers/torch_files.py).

# bats file_tags=slow
setup() {
    load ../helpers
    need_python torch numpy
    FILES=$ROOT/test/peers/torch_files.py
}

converted_is_same() { # converted_is_same ARCH IMAGES [WAY]...
    local arch=$1 images=$2
    shift 2
    "$PYTHON" "$FILES" save "$arch" x.pth "$@"
    torch2nn -q ${OPTIONS:-} x.pth -o x.nn
    run "$PYTHON" "$FILES" same x.pth "${BIN%/bin}/test/peer_run" x.nn "$images"
    echo "$output"
    assert_success
}

@test "resnet18 with random weights computes what PyTorch computed before it saved them" {
    converted_is_same resnet18 4
}
