# test/archives.bash -- small archives in the formats that data sets are published in: `load ../archives`.

# archive KIND OUT...: what test/peers/archives.py makes of Fashion-MNIST's images
archive() {
    [ -e /usr/share/datasets/fashion-mnist ] || skip "Debian's dataset-fashion-mnist is not installed"
    need_python numpy scipy PIL
    "$PYTHON" "$ROOT/test/peers/archives.py" "$@"
}

# convert SET OUT SRC [OPTION]...: an archive that is not the published one
convert() {
    local set=$1 out=$2 src=$3
    shift 3
    tfrec-convert -q --set "$set" --checksum skip -o "$out" "$@" "$src"
}

# The splits of two data sets are the same files.
assert_same_data() { # assert_same_data DIR DIR
    local split
    for split in train test holdout rest; do
        cmp "$1/$split.tfrecord" "$2/$split.tfrecord"
    done
}
