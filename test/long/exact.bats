# On trained robust networks Winograd's kernels and plain sums (--exact) say the same of 10,000 images: PGD-20 accuracy
# within 0.1 point (seen: 0 and 1 images with another outcome), and those images are listed. For `make check-long`:
# about ten minutes.
setup_file() {
    load ../helpers
    load ../fashion
    fashion "$BATS_FILE_TMPDIR" 10000 10000
}

setup() {
    load ../helpers
    D=$BATS_FILE_TMPDIR
}

# agrees ARCH OPTION...: train it robustly, measure it twice
agrees() {
    local arch=$1 v
    shift
    # most of the multiplications of its 3x3 layers are Winograd's
    nninfo --plan --eval --arch "$arch" --input 1x28x28 --format tsv | awk -F'\t' '
        $6 == "wino4" { fast += $5 } { all += $5 } END { exit !(fast > 0.6 * all) }'
    advtrain -q --arch "$arch" -d "$D/train.tfrecord" --eps 0.1 -o "$arch.nn" "$@"
    for v in fast exact; do
        adveval -q -d "$D/test.tfrecord" --eps 0.1 --step 0.01 --attacks clean,pgd20 \
            $([ $v = fast ] || echo --exact) --outcomes "$v" -o "$v.json" "$arch.nn"
    done
    # columns: image, label and the classes given clean and under attack, of one and of the other
    echo "# $arch: images with another outcome: image, class, pgd20 fast, pgd20 exact" >&3
    paste fast exact | awk -F'\t' 'NR > 1 && ($4 == $2) != ($8 == $6) { print "#  ", $1, $2, $4, $8 }' >&3
    paste fast exact | awk -F'\t' -v arch="$arch" 'NR > 1 {
            if ($1 != $5 || $2 != $6) exit 2
            n++
            fast += $4 == $2
            exact += $8 == $6
            flips += ($4 == $2) != ($8 == $6)
            clean += ($3 == $2) != ($7 == $6)
        } END {
            printf "# %s: pgd20 %.2f %% fast, %.2f %% exact; %d of %d outcomes differ, %d clean\n", arch, 100 * fast / n,
                100 * exact / n, flips, n, clean
            exit !(n == 10000 && fast >= 0.3 * n && fast <= 0.8 * n && fast - exact <= 0.001 * n && exact - fast <= 0.001 * n)
        }' >&3
}

@test "exact: resS, adversarially trained, PGD-20 on 10,000 images" {
    agrees resS --batch 128 --steps 7 --step 0.025 --weight-decay 5e-4 --epochs 5 --lr 0.1 --warmup-steps 40
}

@test "exact: vgg2_bn, adversarially trained, PGD-20 on 10,000 images" {
    agrees vgg2_bn --batch 64 --limit 8000 --steps 4 --step 0.04 --optimizer adam --lr 0.001 --epochs 3
}
