# nninfo: usage, and everything that is no sound .nn file.
setup() {
    load ../helpers
    MKNN=$(dirname "$BIN")/test/mknn
}

@test "nninfo --help shows every option and an example, status 0" {
    run --separate-stderr nninfo --help
    assert_success
    assert_equal "$stderr" ""
    local o
    for o in --arch --input --classes --format --history --tensors --output --quiet --help --version; do
        assert_output --partial -- "$o"
    done
    assert_output --partial "Example: nninfo --arch resnet18"
    run nninfo --version
    assert_output --regexp '^nninfo \(HERACLES\) [0-9.]+$'
}

@test "nninfo: the example of --help works" {
    local example
    example=$(nninfo --help | sed -n 's/^Example: //p')
    eval "$example" >out
    assert_equal "$(wc -l <out)" 22
}

@test "nninfo: wrong usage is status 2 with a hint" {
    "$MKNN" resS 1 net.nn
    local args
    while read -r args; do
        # shellcheck disable=SC2086
        run -2 --separate-stderr nninfo $args
        assert_equal "$output" ""
        assert_equal "${stderr_lines[1]}" "Try 'nninfo --help'."
    done <<'A'

net.nn net.nn
net.nn --arch resS
net.nn --input 3x32x32
net.nn --classes 10
--arch resS --input 3x32
--arch resS --input 3x32x32x1
--arch resS --input 3x0x32
--arch resS --input 3x-2x32
--arch resS --input axbxc
--arch resS --classes -1
--arch resS --classes 1.5
--arch resS --format yaml
--arch resS --history
--arch resS --tensors
--history --tensors net.nn
--history --format tsv net.nn
--arch
--nonsense net.nn
A
}

@test "nninfo: an unknown architecture lists the known ones, a too small input says where it ends" {
    run -2 --separate-stderr nninfo --arch vgg7
    assert_equal "${stderr_lines[0]}" "nninfo: 'vgg7' is no architecture we know: vgg2, vgg2_bn, vgg4, vgg4_bn, vgg6, vgg6_bn, vgg8, vgg8_bn, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, resnet18, wrn_28_4, ResNet50, resS"
    run -2 --separate-stderr nninfo --arch vgg16 --input 3x12x32
    assert_equal "${stderr_lines[0]}" "nninfo: vgg16: maxpool 'features.23': kernel 2x2 does not fit on its 1x4 input with pad 0 (input 3x12x32)"
}

@test "nninfo: missing, empty, foreign, cut and damaged files are refused by name" {
    "$MKNN" resS 1 net.nn
    : >empty.nn
    printf 'format: heracles\n' >text.nn
    head -c 100000 net.nn >cut.nn
    { head -c 100000 net.nn; printf 'XXXX'; tail -c +100005 net.nn; } >damaged.nn
    { cat net.nn; echo; } >more.nn
    mkdir dir
    local file words
    while IFS='|' read -r file words; do
        run --separate-stderr nninfo -o out "$file"
        assert_refused out
        assert_equal "$output" ""
        assert_regex "$stderr" "^nninfo: $file: $words$"
    done <<'A'
missing.nn|No such file or directory
dir|is a directory, a file is needed
empty.nn|cut short: the header needs 6 bytes, 0 are left
text.nn|is no .nn file: it starts with the bytes 66 6f 72 6d
cut.nn|cut short: tensor '[a-z0-9.]+' needs [0-9]+ bytes, [0-9]+ are left
damaged.nn|damaged: the checksum of tensor '[a-z0-9.]+' does not match
more.nn|bytes follow the trailer
A
}

@test "nninfo: a stream that is cut in a pipe is refused with one line" {
    "$MKNN" resS 1 net.nn
    local n size
    size=$(stat -c %s net.nn)
    for n in 0 3 5000 100000 $((size - 1)); do
        run --separate-stderr nninfo - < <(head -c $n net.nn)
        assert_refused
        assert_regex "$stderr" "^nninfo: <stdin>: cut short: "
    done
}

@test "nninfo: a full disk is an error" {
    run --separate-stderr bash -c 'nninfo --arch resnet18 >/dev/full'
    assert_failure 1
    assert_equal "$stderr" "nninfo: <stdout>: writing: No space left on device"
}
