# test/cli/peers-torch2nn.bats -- checkpoints between PyTorch and us. Those that PyTorch wrote, converted, compute what
# PyTorch computes: logits to 1e-4, the same classes, the same accuracy clean and under PGD from the same starting
# noise. Those that we wrote load into PyTorch's classes, strictly, with weights_only (test/peers/torch_files.py).

# bats file_tags=slow
setup() {
    load ../helpers
    need_python torch numpy
    FILES=$ROOT/test/peers/torch_files.py
    PEER=${BIN%/bin}/test
}

same() { # same ARCH IMAGES CASE...
    run "$PYTHON" "$FILES" same "$PEER/peer_run" "$@"
    echo "$output"
    assert_success
}

@test "resnet18 computes what PyTorch computed before it saved it, at random and trained" {
    same resnet18 4 state_dict trained6
}

@test "vgg16_bn computes what PyTorch computed before it saved it, at random and trained" {
    same vgg16_bn 8 module+net trained8+legacy
}

@test "wrn_28_4 computes what PyTorch computed before it saved it, at random and trained" {
    same wrn_28_4 3 dead+scores+state_dict trained6
}

@test "ResNet50 computes what PyTorch computed before it saved it, at random and trained" {
    same ResNet50 3 module+state_dict+legacy trained2 --input=64x64
}

@test "half, double, shared, strided, parameters, wrapped and normalized networks compute the same" {
    local way cases=()
    for way in half bfloat16 double spread share parameters; do
        cases+=("$way" "$way+legacy")
    done
    same resS 8 "${cases[@]}" compiled radmm radmm-imagenet+net old admm model+legacy
    same vgg6_bn 4 normalized
}

@test "what we write loads into PyTorch's classes with weights_only, strictly, and computes the same" {
    run "$PYTHON" "$FILES" load vgg6_bn resS wrn_28_4
    echo "$output"
    assert_success
}

@test "a pruned network is exported with zeros where its masks are, and comes back the same" {
    "$PYTHON" "$FILES" save wrn_28_4 x.pth dead scores
    torch2nn -q x.pth -o x.nn
    nn2torch --bare -o bare.pth x.nn
    nn2torch --bare -o bare.safetensors x.nn
    run "$PYTHON" "$FILES" strict wrn_28_4 bare.pth bare.safetensors
    echo "$output"
    assert_success
    "$PYTHON" "$FILES" save resS x.pth scores state_dict
    torch2nn -q x.pth -o x.nn
    local reg layout
    for reg in weight channel; do
        maskapply -q -s uniform:0.5 -r $reg -o pruned.nn x.nn
        for layout in dense hydra radmm; do
            nn2torch -l $layout -o y.pth pruned.nn
            torch2nn -q y.pth -o z.nn
            assert_equal "$(nninfo --tensors z.nn)" "$(nninfo --tensors pruned.nn)"
            run "$PYTHON" "$FILES" zeros y.pth pruned.nn $layout $reg
            echo "$output"
            assert_success
        done
        nn2torch -o y.safetensors pruned.nn
        torch2nn -q y.safetensors -o z.nn
        assert_equal "$(nninfo -f json z.nn | grep digest)" "$(nninfo -f json pruned.nn | grep digest)"
        nn2torch -o y.pth pruned.nn
        nn2torch --bare -o bare.pth pruned.nn
        nn2torch --bare -o bare.safetensors pruned.nn
        run "$PYTHON" "$FILES" strict resS y.pth bare.pth bare.safetensors
        echo "$output"
        assert_success
        run grep -c heracles bare.pth bare.safetensors
        assert_output $'bare.pth:0\nbare.safetensors:0'
    done
}
