# kill -9 of the tools that work for seconds and keep no state: whatever is visible is whole, and the same command
# ends with the bytes of a run that nobody killed. (advtrain, adveval and ddpg-search: their -resume files.)
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 60 20 --epochs 1
    maskapply -q -s erk:0.2 -r weight --strategy-out erk.json -o pruned.nn net.nn
    adveval -q -d test.tfrecord --attacks clean -o eval.json pruned.nn
}

setup() {
    load ../helpers
    D=$BATS_FILE_TMPDIR
}

# killed_everywhere OUTPUTS COMMAND...: the command, which makes so many files, is killed at every crash point that it
# passes: while a file is written, before and after each rename.
killed_everywhere() {
    local outputs=$1 point n f
    shift
    mkdir a
    (cd a && "$@")
    assert_equal "$(find a -type f | wc -l)" "$outputs"
    for point in write rename renamed; do
        for ((n = 1; ; n++)); do
            rm -rf b
            mkdir b
            status=0
            (cd b && exec env HERACLES_CRASH="$point:$n" "$@") || status=$?
            [ "$status" -ne 0 ] || break
            assert_equal "$status" 137
            (cd b && find . -type f ! -name '.*.partial') >visible
            while read -r f; do
                cmp "a/$f" "b/$f"
            done <visible
            (cd b && "$@")
            diff -r a b
        done
        assert_equal "$point $n" "$point $((outputs + 1))"
    done
}

@test "tfrec-convert: killed anywhere, the same command makes the same files" {
    python3 - <<'END'
import gzip, struct
for name, n in (("train", 30), ("t10k", 20)):
    with gzip.open(f"{name}-images-idx3-ubyte.gz", "wb") as f:
        f.write(struct.pack(">IIII", 0x803, n, 28, 28) + bytes(i * 7 % 256 for i in range(n * 784)))
    with gzip.open(f"{name}-labels-idx1-ubyte.gz", "wb") as f:
        f.write(struct.pack(">II", 0x801, n) + bytes(i % 10 for i in range(n)))
END
    killed_everywhere 5 tfrec-convert -q --set idx --holdout 0.34 -o out ..
}

@test "maskapply: killed anywhere, the same command makes the same files" {
    killed_everywhere 2 maskapply -q -s erk:0.2 -r weight --strategy-out erk.json -o pruned.nn "$D/net.nn"
}

@test "nninfo: killed anywhere, the same command makes the same file" {
    killed_everywhere 1 nninfo --format json -o layers.json "$D/net.nn"
}

@test "summarize: killed anywhere, the same command makes the same files" {
    killed_everywhere 3 summarize -q --csv t.csv --latex t.tex -o t.txt "$D/eval.json"
}

@test "stgplot: killed anywhere, the same command makes the same files" {
    killed_everywhere 3 stgplot -q -o plot "$D/erk.json"
}
