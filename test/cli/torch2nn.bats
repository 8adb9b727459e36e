# test/cli/torch2nn.bats -- torch2nn and nn2torch as commands; what they read and write is in torch2nn-bytes.bats and
# peers-torch2nn.bats.
setup() {
    load ../helpers
    "${BIN%/bin}/test/mknn" resS 1 net.nn
}

digest() {
    nninfo -f json "$1" | sed -n 's/^ *"digest": "\(.*\)"/\1/p'
}

@test "a network comes back the same from every layout and format, with its history" {
    local out
    for out in "-l dense -o x.pth" "-l hydra -o x.pth" "-l radmm -o x.pth" "-o x.safetensors"; do
        nn2torch $out net.nn
        torch2nn -q -o y.nn "${out##* }"
        assert_equal "$(digest y.nn)" "$(digest net.nn)"
        run nninfo --history y.nn
        assert_output --partial '"tool": "torch2nn"'
        assert_output --partial '"tool": "nn2torch"'
        assert_output --partial "$(sha256sum "${out##* }" | cut -d ' ' -f 1)"
        assert_output --partial "$(digest net.nn)"
    done
}

@test "masks, planned rates, meta and odd sizes come back too" {
    "${BIN%/bin}/test/mknn" resS:2x11x13 1 odd.nn
    local how
    for how in "-r weight" "-r channel" "--plan -r weight"; do
        maskapply -q -s erk:0.4 $how -o pruned.nn odd.nn
        nn2torch -o x.pth pruned.nn
        torch2nn -q -o y.nn x.pth
        assert_equal "$(nninfo -f json y.nn)" "$(nninfo -f json pruned.nn)"
    done
}

@test "standard input and output work, and the same network gives the same bytes anywhere" {
    nn2torch -o x.pth net.nn
    TZ=Asia/Tokyo nn2torch - <net.nn >y.pth
    cmp x.pth y.pth
    torch2nn -q -o x.nn x.pth
    torch2nn -q - <y.pth >y.nn
    cat x.pth | torch2nn -q - | cmp - x.nn
    cmp x.nn y.nn
    nn2torch -f safetensors net.nn | torch2nn -q - | nninfo -
}

@test "normalisation and image size are options" {
    nn2torch -o x.pth net.nn
    torch2nn -q -a resS --input 20x24 --mean 0.5 --std 1/4 -o x.nn x.pth
    run nninfo -f json x.nn
    assert_output --partial '"hin": 20'
    assert_output --regexp '"normalize": \{[[:space:]]*"mean": \[[[:space:]]*0\.5[[:space:]]*\],[[:space:]]*"std": \[[[:space:]]*0\.25[[:space:]]'
    run nninfo x.nn
    assert_line --index 0 "resS: input 1x20x24, 10 classes, normalised by mean 0.5 and std 0.25"
    run nninfo -f json net.nn
    assert_output --partial '"normalize": null'
    run nn2torch -o y.pth x.nn
    assert_output "nn2torch: the network normalises its images (nninfo tells how); PyTorch's class does not, so do it before"
    run nn2torch -o y.pth net.nn
    assert_output ""
    run torch2nn -q -a resS --mean 0.5,0.5 --std 1,1 -o y.nn x.pth
    assert_failure 1
    assert_output --partial "mean and std are for 2 channels, the network takes 1"
}

@test "wrong usage is told so" {
    local options
    nn2torch -o x.pth net.nn
    for options in "" "x.pth y.pth" "-a vgg99 x.pth" "--input 3x3x3 x.pth" "--input 0x3 x.pth" "--mean 1 x.pth" "--mean a --std 1 x.pth" \
        "--mean 1,1 --std 1 x.pth" "--mean 1 --std 0 x.pth"; do
        run torch2nn -o out.nn $options
        assert_failure 2
        assert_not_exists out.nn
    done
    for options in "" "-l other net.nn" "-f zip net.nn" "-l hydra -f safetensors net.nn" "-l radmm -o out.safetensors net.nn"; do
        run nn2torch -o out.pth $options
        assert_failure 2
        assert_not_exists out.pth
    done
}

@test "a terminal gets no binary data" {
    nn2torch -o x.pth net.nn
    run script -qec "nn2torch net.nn" /dev/null
    assert_output --partial "standard output is a terminal"
    run script -qec "torch2nn x.pth" /dev/null
    assert_output --partial "standard output is a terminal"
}
