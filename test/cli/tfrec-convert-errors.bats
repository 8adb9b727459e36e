# test/cli/tfrec-convert-errors.bats -- wrong usage and wrong files: one line, the right status, no output.

setup() {
    load ../helpers
    mkdir src
    # 20 training and 6 test images of 3x2 pixels; labels 0, 1, 0, 1...
    idx3 20 3 2 120 >src/train-images-idx3-ubyte
    idx1 20 20 >src/train-labels-idx1-ubyte
    idx3 6 3 2 36 >src/t10k-images-idx3-ubyte
    idx1 6 6 >src/t10k-labels-idx1-ubyte
}

be32() { printf "\\x$(printf %02x $(($1 >> 24 & 255)))\\x$(printf %02x $(($1 >> 16 & 255)))\\x$(printf %02x $(($1 >> 8 & 255)))\\x$(printf %02x $(($1 & 255)))"; }
idx3() { be32 $((0x803)); be32 "$1"; be32 "$2"; be32 "$3"; head -c "$4" /dev/zero; }      # N H W BYTES
idx1() { be32 $((0x801)); be32 "$1"; for ((i = 0; i < $2; i++)); do printf "\\x0$((i % 2))"; done; } # N BYTES

# The converter refuses src with exactly this line and leaves nothing.
refused() { # refused MESSAGE
    run --separate-stderr tfrec-convert --set idx -o out src
    assert_refused out/train.tfrecord out/test.tfrecord out/holdout.tfrecord out/rest.tfrecord out/manifest.json
    assert_equal "$output" ""
    assert_equal "$stderr" "tfrec-convert: $1"
    assert_not_exists out
}

@test "tfrec-convert: help names every set and shows a working example" {
    run -0 --separate-stderr tfrec-convert --help
    assert_output --partial "fashion-mnist, mnist, idx, cifar10, svhn, imagenet"
    assert_output --partial "Example: tfrec-convert --set fashion-mnist -o data/FashionMNIST /usr/share/datasets/fashion-mnist"
    assert_equal "$stderr" ""
}

@test "tfrec-convert: wrong usage is status 2 with a hint" {
    for args in "" "src" "-o out" "-o out src more" "-o out --set nonsense src" "-o out --holdout 0 src" \
        "-o out --holdout 1 src" "-o out --holdout many src" "-o out --seed -1 src" "-o out --frobnicate src"; do
        run -2 --separate-stderr tfrec-convert $args
        assert_equal "$output" ""
        [[ "$stderr" == *"Try 'tfrec-convert --help'."* ]]
        assert_not_exists out
    done
}

@test "tfrec-convert: the good files that the refusals below are made from are accepted" {
    run -0 tfrec-convert --set idx -o out src
    assert_exists out/manifest.json
}

@test "tfrec-convert: a missing directory or file is refused by name" {
    rm src/t10k-labels-idx1-ubyte
    refused "src/t10k-labels-idx1-ubyte: No such file or directory"
    run --separate-stderr tfrec-convert --set idx -o out nowhere
    assert_refused out
    assert_equal "$stderr" "tfrec-convert: nowhere/train-images-idx3-ubyte: No such file or directory"
}

@test "tfrec-convert: empty files and directories in place of files are refused" {
    : >src/train-images-idx3-ubyte
    refused "src/train-images-idx3-ubyte: cut short: the magic number needs 4 bytes, 0 are left"
    rm src/train-images-idx3-ubyte
    mkdir src/train-images-idx3-ubyte
    refused "src/train-images-idx3-ubyte: is a directory, a file is needed"
}

@test "tfrec-convert: files of another kind are refused with what they begin with" {
    printf 'not an idx file at all' >src/train-images-idx3-ubyte
    refused "src/train-images-idx3-ubyte: not an IDX file of images: it begins with 6e6f7420, not 00000803"
    cp src/train-labels-idx1-ubyte src/train-images-idx3-ubyte
    refused "src/train-images-idx3-ubyte: not an IDX file of images: it begins with 00000801, not 00000803"
}

@test "tfrec-convert: images where labels should be are refused" {
    cp src/train-images-idx3-ubyte src/train-labels-idx1-ubyte
    refused "src/train-labels-idx1-ubyte: not an IDX file of labels: it begins with 00000803, not 00000801"
}

@test "tfrec-convert: heads that announce more or less than there is are refused" {
    local images=src/train-images-idx3-ubyte
    idx3 21 3 2 120 >$images
    refused "$images: cut short: the pixel data needs 126 bytes, 120 are left"
    idx3 19 3 2 120 >$images
    refused "$images: bytes follow after the 130 that its head announces"
    idx3 4294967295 65535 65535 120 >$images
    refused "$images: cut short: the pixel data needs 16777216 bytes, 120 are left"
    idx3 20 0 2 120 >$images
    refused "$images: images of 0x2 pixels, 1..65535 rows and columns are allowed"
    idx3 20 3 70000 120 >$images
    refused "$images: images of 3x70000 pixels, 1..65535 rows and columns are allowed"
    idx3 0 3 2 0 >$images
    refused "$images: holds no images"
    be32 $((0x803)) >$images
    refused "$images: cut short: the head needs 4 bytes, 0 are left"
}

@test "tfrec-convert: a head may not make it take memory that the file does not fill" {
    # 255 TiB announced; within 1 GB of address space the refusal is still the ordinary one
    idx3 4294967295 255 255 120 | gzip >src/train-images-idx3-ubyte.gz
    if nm -D "$(command -v tfrec-convert)" | grep -q __asan; then
        refused "src/train-images-idx3-ubyte.gz: cut short: the pixel data needs 16777216 bytes, 120 are left"
    else
        (ulimit -v 1000000 && refused "src/train-images-idx3-ubyte.gz: cut short: the pixel data needs 16777216 bytes, 120 are left")
    fi
}

@test "tfrec-convert: counts of images and labels must agree" {
    idx1 19 19 >src/train-labels-idx1-ubyte
    refused "src/train-labels-idx1-ubyte: 19 labels, but src/train-images-idx3-ubyte holds 20 images"
}

@test "tfrec-convert: test images must look like training images, labels like training labels" {
    idx3 6 2 3 36 >src/t10k-images-idx3-ubyte
    refused "src: test images are 1x2x3, training images 1x3x2"
    idx3 6 3 2 36 >src/t10k-images-idx3-ubyte
    { be32 $((0x801)); be32 6; printf '\0\1\2\0\1\0'; } >src/t10k-labels-idx1-ubyte
    refused "src: label 2 is outside 0..1"
}

@test "tfrec-convert: a name that the manifest cannot hold is refused" {
    local name
    name=$(printf 'x%.0s' {1..64})
    run --separate-stderr tfrec-convert --set idx --name "$name" -o out src
    assert_refused out
    assert_equal "$stderr" "tfrec-convert: the name '$name' is longer than 63 bytes or not UTF-8"
}

@test "tfrec-convert: a known data set must have its known size" {
    run --separate-stderr tfrec-convert --set fashion-mnist -o out src
    assert_refused out
    assert_equal "$stderr" "tfrec-convert: src: 20 training and 6 test images, FashionMNIST has 60000 and 10000"
}

@test "tfrec-convert: a holdout that some class cannot fill is refused" {
    { be32 $((0x801)); be32 20; printf '\1'; head -c 19 /dev/zero; } >src/train-labels-idx1-ubyte
    run --separate-stderr tfrec-convert --set idx --holdout 0.2 -o out src
    assert_refused out
    assert_equal "$stderr" "tfrec-convert: a holdout needs 2 images of each class, class 1 has 1"
}

@test "tfrec-convert: a gzip file cut at any byte is refused" {
    gzip -n src/train-labels-idx1-ubyte
    local whole=src/train-labels-idx1-ubyte.gz size n
    size=$(stat -c %s $whole)
    mv $whole good.gz
    for ((n = 0; n < size; n++)); do
        head -c $n good.gz >$whole
        run --separate-stderr tfrec-convert --set idx -o out src
        assert_refused out
        [[ "$stderr" == "tfrec-convert: $whole: "* ]]
    done
}

@test "tfrec-convert: a gzip file with a damaged body, check sum or length, or something behind it, is refused" {
    gzip -n src/train-labels-idx1-ubyte
    local whole=src/train-labels-idx1-ubyte.gz size at
    size=$(stat -c %s $whole)
    cp $whole good.gz
    for at in 12 $((size - 8)) $((size - 5)) $((size - 4)) $((size - 1)); do
        cp good.gz $whole
        printf '\xa5' | dd of=$whole bs=1 seek=$at conv=notrunc status=none
        run --separate-stderr tfrec-convert --set idx -o out src
        assert_refused out
        [[ "$stderr" == "tfrec-convert: $whole: "*damaged* ]]
    done
    { cat good.gz; echo trailing; } >$whole
    run --separate-stderr tfrec-convert --set idx -o out src
    assert_refused out
    [[ "$stderr" == "tfrec-convert: $whole: damaged: it ends with check sum "* ]]
}

@test "tfrec-convert: an output directory that cannot be made is refused" {
    : >file
    run --separate-stderr tfrec-convert --set idx -o file/out src
    assert_refused file/out
    assert_equal "$stderr" "tfrec-convert: file/out: Not a directory"
    run --separate-stderr tfrec-convert --set idx -o file src
    assert_equal "$status" 1
    assert_equal "$stderr" "tfrec-convert: file: Not a directory"
}

@test "tfrec-convert: bad input leaves an earlier conversion as it was" {
    tfrec-convert -q --set idx -o out src
    cp -r out before
    idx1 19 19 >src/train-labels-idx1-ubyte
    run -1 tfrec-convert --set idx -o out src
    diff -r before out
}
