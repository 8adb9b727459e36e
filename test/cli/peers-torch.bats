# test/cli/peers-torch.bats -- whole networks against PyTorch in float64, logits and every gradient, with running
# and with batch statistics: the oracle to 1e-8, the engine to 1e-4 in logits and by cosine in gradients. Bounds
# and definitions are in test/peers/torch_nets.py.

# bats file_tags=slow
setup() {
    load ../helpers
    need_python torch numpy
}

same_as_torch() { # same_as_torch ARCH
    run bash -o pipefail -c '"$1" "$2" | "$PYTHON" "$3"' - "${BIN%/bin}/test/peer_dump" "$1" \
        "$ROOT/test/peers/torch_nets.py"
    echo "$output"
    assert_success
    assert_line --partial "eval folded: worst error"
    assert_line --partial "train float: worst cosine"
    assert_line --partial "train ref: worst error"
}

@test "resS computes what PyTorch computes" {
    same_as_torch resS
}

@test "vgg6_bn computes what PyTorch computes" {
    same_as_torch vgg6_bn
}

@test "vgg11, which has no batch norm, computes what PyTorch computes" {
    same_as_torch vgg11
}

@test "vgg16_bn computes what PyTorch computes" {
    same_as_torch vgg16_bn
}

@test "resnet18 computes what PyTorch computes" {
    same_as_torch resnet18
}

@test "wrn_28_4 computes what PyTorch computes" {
    same_as_torch wrn_28_4
}

@test "ResNet50 computes what PyTorch computes" {
    same_as_torch ResNet50
}
