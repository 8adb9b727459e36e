# summarize --legacy, --sheet with spreadsheets, --published: what others measured, beside what we did.
setup() {
    load ../helpers
    SHEETS=${REFERENCE:-$ROOT/../shared/reference}/results
}

logs() { # below ./logs, as the published programs write them
    python3 "$ROOT/test/legacy_logs.py" logs
}

@test "summarize --legacy: HYDRA's and R-ADMM's logs, ImageNet's too; training's lines and their directories are passed over" {
    logs
    run --separate-stderr summarize --legacy logs -a both --csv t.csv
    assert_success
    assert_equal "$stderr" ""
    python3 - <<'EOF'
import csv
rows = {r["network"]: r for r in csv.DictReader(open("t.csv", newline=""))}
def has(network, **want):
    for k, v in want.items():
        got = rows[network][k]
        assert got == str(v), (network, k, got, v)
has("cifar10_weight_010_1/finetune", data="CIFAR10", arch="vgg16_bn", reg="weight", strategy="010_1", rate="0.1",
    clean=71, fgsm=51, pgd20=49, cw=47, clean_balanced="", params="", density="", clean_images="")
has("svhn_channel_05_uni/finetune", data="SVHN", arch="wrn_28_4", reg="channel", rate="0.5", clean="", clean_balanced=55,
    fgsm_balanced=35, pgd20_balanced=33, cw_balanced=31)
has("imagenet_channel_05_0/finetune", data="ImageNet", arch="ResNet50", rate="0.5", clean=70, fgsm=50, pgd20=48, cw=46)
has("cifar10_weight_001_0/finetune", arch="resnet18", rate="0.01", clean=70, clean_balanced=65, pgd10=50, pgd10_balanced=45)
has("adv_bacc_vgg16_bn_retrain_weight_010_uni_", data="CIFAR10", clean=60, fgsm=40, pgd10=38, pgd20=36, cw=34)
has("adv_bacc_wrn_28_4_retrain_weight_010_0_", data="SVHN", clean="", clean_balanced=65, pgd10_balanced=43)
has("adv_bacc_resnet50_retrain_weight_010_010_0", data="ImageNet", strategy="010_0", clean=70, fgsm=50, pgd10=48, cw=46)
assert len(rows) == 16, sorted(rows)
EOF
    run -0 summarize --legacy logs/r-admm-nonuniform --csv t.csv
    assert_equal "$(wc -l <t.csv)" 7
    run -0 summarize --legacy logs/hydra-nonuniform/trained_models/vgg16_bn/cifar10_weight_010_1/finetune/eval_advs.log --csv t.csv
    assert_equal "$(wc -l <t.csv)" 2
}

@test "summarize --legacy --compare: the paper's tables from logs; rules and SVHN's _all strategies are left out" {
    logs
    run --separate-stderr summarize --compare -a published --legacy logs --csv t.csv
    assert_success
    assert_equal "$(grep -c "is neither uniform nor searched: left out" <<<"$stderr")" 2
    assert_regex "$stderr" 010_lamp
    assert_regex "$stderr" 05_0_all
    python3 - <<'EOF'
import csv
rows = {(r["data"], r["reg"], r["arch"], r["method"], r["rate"]): r for r in csv.DictReader(open("t.csv", newline=""))}
r = rows["CIFAR10", "weight", "vgg16_bn", "hydra", "0.1"]
assert (r["uniform_runs"], r["searched_runs"], r["clean_uniform"], r["clean_mean"], r["cw_diff"]) == ("1", "2", "60", "70.5", "10.5"), r
assert rows["SVHN", "channel", "wrn_28_4", "hydra", "0.5"]["clean_mean"] == "65" # balanced
assert rows["CIFAR10", "weight", "vgg16_bn", "radmm", "0.1"]["pgd10_mean"] == "48"
EOF
    # the table says which accuracy it shows
    summarize -q --compare -a published --legacy logs --latex t.tex >t.txt 2>/dev/null
    assert_file_contains t.txt '^SVHN, channel pruning, balanced accuracy: uniform'
    assert_file_contains t.tex '{SVHN, channel pruning, balanced accuracy}'
    assert_file_contains t.txt '^CIFAR10, weight pruning: uniform'
    run -2 summarize --compare -a both --legacy logs
    run -1 --separate-stderr summarize --compare --legacy logs --legacy logs/hydra-nonuniform
    assert_regex "$stderr" "the same network as in"
}

@test "summarize --legacy: what is no log of theirs, or holds no accuracy, is refused in one line" {
    mkdir empty
    run --separate-stderr summarize --legacy empty
    assert_refused
    assert_equal "$stderr" "summarize: empty: no evaluation log of HYDRA or R-ADMM is there"
    run --separate-stderr summarize --legacy missing
    assert_refused
    local at=x/resnet18/cifar10_weight_010_0/finetune value
    mkdir -p "$at" elsewhere
    for value in nan 101 -3 '' x 1e400; do
        echo "STANDARD ACC: Benign validation accuracy: $value, Adversarial validation accuracy by FGSM: 1" >"$at/a.log"
        run --separate-stderr summarize --legacy x
        assert_refused
        assert_regex "$stderr" "^summarize: x/.*a.log: line 1: clean is '.*', an accuracy is needed$"
    done
    echo "STANDARD ACC: Benign validation accuracy: 1, Adversarial validation accuracy by FGSM: 1" >elsewhere/a.log
    run --separate-stderr summarize --legacy elsewhere # a log that does not say of what
    assert_equal "$status" 1
    assert_regex "$stderr" "cannot be told from its path: left out"
    printf 'STANDARD ACC: Benign validation accuracy: 7, Adversarial validation accuracy by FGSM: %s\n' 3 4 >"$at/a.log"
    run --separate-stderr summarize --legacy x
    assert_success
    assert_equal "$stderr" "summarize: warning: x/resnet18/cifar10_weight_010_0/finetune/a.log: an attack was measured more than once; the last time counts"
    assert_line --regexp "7.00 +4.00$"
    head -c 300 /dev/urandom >x/b.log # passed over
    run -0 summarize --legacy x
}

@test "summarize --published: a column with the figures of the sheets, where there are any" {
    [ -e "$SHEETS/adveval_weight_cifar10.csv" ] || skip "no published results"
    logs
    run --separate-stderr summarize --compare -a published --legacy logs --published "$SHEETS" --csv t.csv --latex t.tex
    assert_success
    assert_line --regexp '^vgg16_bn +hydra +0.1 +2 +\| 60.00 70.50 \+- 0.71 \+10.50 +77.51 78.21 \+- 0.60'
    python3 - <<'EOF'
import csv
ours = {(r["data"], r["reg"], r["arch"], r["method"], r["rate"]): r for r in csv.DictReader(open("t.csv", newline=""))}
r = ours["ImageNet", "channel", "ResNet50", "hydra", "0.5"]
assert (r["clean_published_uniform"], r["clean_published_mean"], r["clean_published_std"], r["aa_published_mean"]) == ("46.67", "50.03", "", "")
EOF
    grep -F '& \multicolumn{5}{c}{published}' t.tex
    grep -F '77.51 / 78.21{\,$\pm$\,0.60}' t.tex
    run -1 --separate-stderr summarize --compare --legacy logs --published logs
    assert_equal "$(tail -n 1 <<<"$stderr")" "summarize: logs: holds no sheet (.csv, .xls, .xlsx)"
    run -2 summarize --published "$SHEETS" --legacy logs
    run -2 summarize -a published --legacy logs
}

@test "summarize --published: a row has the figures of the sheet's row of that name" {
    logs
    mkdir sheets
    printf 'arch,method,compressionrate,unioa,R1-oa,R2-oa\n%s\n%s\n%s\n' vgg,hydra,0.01,61,71,72 resnet,hydra,0.1,62,73,74 \
        vgg,hydra,0.1,63,75,77 >sheets/weight_cifar10.csv
    summarize --compare --legacy logs --published sheets --csv t.csv >t.txt 2>stderr
    python3 - <<'EOF'
import csv
rows = {(r["data"], r["reg"], r["arch"], r["method"], r["rate"]): r for r in csv.DictReader(open("t.csv", newline=""))}
r = rows["CIFAR10", "weight", "vgg16_bn", "hydra", "0.1"]
assert [r["clean_published_" + k] for k in ("uniform", "mean")] == ["63", "76"], r
assert abs(float(r["clean_published_std"]) - 2 ** 0.5) < 1e-8
assert rows["CIFAR10", "weight", "vgg16_bn", "radmm", "0.1"]["clean_published_mean"] == ""
EOF
}

@test "summarize --sheet: spreadsheets go through ssconvert, formulas computed; without it a line says so" {
    printf 'arch,method,compressionrate,unioa,R1-oa,oa\n"vgg","hydra",0.1,70,71,"\\B 71.00"\n,,,,,\n' >plain_weight_cifar10.csv
    mkdir bin
    cat >bin/ssconvert <<'SH'
#!/bin/sh
[ "$1 $2 $3 $5" = "--recalc -T Gnumeric_stf:stf_csv fd://1" ] || exit 9
echo "words of its own" >&2
cat "$4"
SH
    chmod +x bin/ssconvert
    cp plain_weight_cifar10.csv a_weight_cifar10.xls
    cp plain_weight_cifar10.csv ./-b_weight_cifar10.xlsx
    local s
    summarize --compare --sheet plain_weight_cifar10.csv >want.txt
    PATH=$PWD/bin:$PATH
    for s in a_weight_cifar10.xls -b_weight_cifar10.xlsx; do
        run --separate-stderr summarize --compare --sheet="$s"
        assert_success
        assert_equal "$output" "$(cat want.txt)"
        assert_equal "$stderr" ""
    done
    mkdir both # of a sheet that is there twice the CSV is taken
    cp plain_weight_cifar10.csv both/x_weight_cifar10.csv
    echo nonsense >both/x_weight_cifar10.xls
    run -0 summarize --compare --sheet plain_weight_cifar10.csv --published both
    # it fails, or is not installed
    printf '#!/bin/sh\nexit 1\n' >bin/ssconvert
    run --separate-stderr summarize --compare --sheet a_weight_cifar10.xls
    assert_refused
    assert_equal "$stderr" "summarize: a_weight_cifar10.xls: ssconvert made no sheet of it"
    run --separate-stderr env PATH="$BIN" summarize --compare --sheet a_weight_cifar10.xls # nothing else is there
    assert_equal "$status" 1
    assert_equal "$stderr" "summarize: a_weight_cifar10.xls: spreadsheets are read by gnumeric's ssconvert, which cannot be run (No such file or directory); elsewhere: ssconvert --recalc a_weight_cifar10.xls sheet.csv"
}

@test "summarize --lint: a network of the logs that says the same to everything" {
    mkdir -p x/resnet18/cifar10_weight_010_0/finetune
    printf 'STANDARD ACC: Benign validation accuracy: 10.00, Adversarial validation accuracy by %s: 10.00\n' FGSM PGD CW \
        >x/resnet18/cifar10_weight_010_0/finetune/eval_advs.log
    run --separate-stderr summarize --lint --legacy x
    assert_equal "$status" 1
    assert_output "collapsed: x/resnet18/cifar10_weight_010_0/finetune/eval_advs.log: cifar10_weight_010_0/finetune: 10.00 clean, and no attack leaves less"
}
