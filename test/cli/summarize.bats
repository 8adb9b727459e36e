# summarize: evaluation records in, one table out, in three renderings.
setup() { load ../helpers; }

# record LABEL RATE|dense CLEAN FGSM PGD CW [LABEL2 ...]: a record on 1000 images; accuracies given as correct
# counts.
record() {
    python3 - "$@" <<'PY'
import json, sys
label, rate, counts = sys.argv[1], sys.argv[2], [int(x) for x in sys.argv[3:]]
pruning = None
if rate != "dense":
    rate = float(rate)
    pruning = {"reg": "weight", "strategy": label, "rate": rate, "density": rate,
               "budget": {"inout": rate, "masked": rate, "macs": 0.2}}
attacks = []
for name, steps, c in zip(("clean", "fgsm", "pgd20", "cw"), (0, 1, 20, 20), counts):
    a = {"name": name, "images": 1000, "correct": c, "accuracy": c / 10, "balanced": max(0, c / 10 - 1)}
    if steps:
        a.update(loss="margin" if name == "cw" else "ce", eps=0.1, step=0.025, steps=steps, restarts=1)
    attacks.append(a)
print(json.dumps({"record": "eval", "version": 1,
                  "model": {"arch": "resS", "digest": "ab" * 32, "params": 77770, "label": label},
                  "pruning": pruning, "data": {"name": "FashionMNIST", "images": 10000, "digest": "cd" * 32},
                  "attacks": attacks, "history": {"tool": "adveval", "version": "0.1.0", "options": {"eps": 0.1},
                      "inputs": [{"role": "model", "sha256": "ab" * 32, "history":
                          {"tool": "advtrain", "version": "0.1.0", "options": {"stage": "finetune", "lr": 0.05}}},
                                 {"role": "data", "sha256": "cd" * 32}]}}))
PY
}

three_records() {
    record uniform:0.1 0.1 700 600 550 540 >u.json
    record dense dense 790 700 650 640 >d.json
    record search-0 0.1 760 640 600 530 >s.json
}

@test "summarize: dense first, then the given order; the best pruned value of each column is marked" {
    three_records
    run --separate-stderr summarize u.json d.json s.json
    assert_success
    assert_equal "$stderr" ""
    assert_line --index 0 "FashionMNIST, resS, weight pruning: accuracy in percent"
    assert_line --index 1 "network      rate  density  budget  clean    FGSM   PGD-20     C&W"
    assert_line --index 2 "dense               1.0000  1.0000  79.00   70.00    65.00   64.00"
    assert_line --index 3 "uniform:0.1   0.1   0.1000  0.1000  70.00   60.00    55.00   54.00*"
    assert_line --index 4 "search-0      0.1   0.1000  0.1000  76.00*  64.00*   60.00*  53.00"
    assert_line --index 5 "  * best of the pruned networks in this column"
    assert_line "  PGD-20: 1000 images, eps 0.1, step 0.025 x 20"
    # 1.96 * 50 / sqrt(1000) = 3.1
    assert_line "  a sample of 1000 images has a 95 % margin of up to 3.1 points"
}

@test "summarize: one run writes CSV and LaTeX beside the text" {
    three_records
    summarize --csv t.csv --latex t.tex -o t.txt d.json u.json s.json
    assert_equal "$(head -n 1 t.csv)" "data,arch,network,digest,params,reg,strategy,rate,density,budget_inout,budget_masked,budget_macs,clean,clean_images,fgsm,fgsm_images,pgd20,pgd20_images,cw,cw_images"
    assert_equal "$(sed -n 4p t.csv | cut -d, -f 1-3,5-14)" "FashionMNIST,resS,search-0,77770,weight,search-0,0.1,0.1,0.1,0.1,0.2,76,1000"
    assert_equal "$(sed -n 2p t.csv | cut -d, -f 6-13)" ",,,1,1,1,1,79"
    assert_file_contains t.tex '^search-0 & 0.1 & 0.1000 & 0.1000 & \\textbf{76.00} & \\textbf{64.00} & \\textbf{60.00} & 53.00 \\\\$'
    assert_file_contains t.tex 'PGD-20 & C\\&W \\\\$'
    assert_file_contains t.txt '^dense '
}

@test "summarize: the CSV parses back to the records' numbers" {
    three_records
    record 'a "quoted", label' 0.1 712 610 500 499 >q.json
    summarize -f csv --accuracy both d.json q.json >t.csv
    need_python csv
    "$PYTHON" - <<'PY'
import csv
rows = list(csv.DictReader(open("t.csv", newline="")))
assert rows[1]["network"] == 'a "quoted", label', rows[1]
assert [float(rows[1][k]) for k in ("clean", "clean_balanced", "cw", "cw_images")] == [71.2, 70.2, 49.9, 1000]
PY
}

@test "summarize: records are JSON lines: concatenated files and a pipe give the same table" {
    three_records
    cat d.json u.json s.json >all.json
    assert_equal "$(summarize d.json u.json s.json)" "$(summarize - <all.json)"
    assert_equal "$(summarize d.json u.json s.json)" "$(cat all.json | summarize -)"
}

@test "summarize: --accuracy balanced shows the other figures, both shows both" {
    three_records
    run summarize --accuracy balanced d.json u.json
    assert_line --partial "uniform:0.1   0.1   0.1000  0.1000  69.00"
    run summarize --accuracy both d.json u.json
    assert_line --partial "clean   clean bal.    FGSM"
    assert_line --partial " 70.00        69.00"
}

@test "summarize: columns stay aligned under labels in UTF-8" {
    record 'Grüße-剪枝' 0.1 700 600 550 540 >a.json
    record plain 0.1 710 600 550 540 >b.json
    run summarize a.json b.json
    assert_line --index 2 "Grüße-剪枝   0.1   0.1000  0.1000  70.00   60.00*   55.00*  54.00*"
    assert_line --index 3 "plain        0.1   0.1000  0.1000  71.00*  60.00*   55.00*  54.00*"
}

@test "summarize: an attack that a record lacks leaves its cell empty" {
    record a 0.1 700 600 >a.json
    record b 0.1 710 610 550 >b.json
    run summarize a.json b.json
    assert_line "a         0.1   0.1000  0.1000  70.00   60.00"
    assert_line "b         0.1   0.1000  0.1000  71.00*  61.00*   55.00"
}

@test "summarize: suspicious numbers are shown and warned about" {
    record a 0.1 500 540 450 440 >a.json
    run --separate-stderr summarize a.json
    assert_success
    assert_equal "$stderr" "summarize: warning: a.json: line 1: a: accuracy 54.00 under fgsm is above the clean 50.00"
    record b 0.1 700 300 450 290 >b.json
    run --separate-stderr summarize b.json
    assert_success
    assert_equal "$stderr" "summarize: warning: b.json: line 1: b: pgd20 leaves 45.00, the single step of fgsm only 30.00: are gradients masked?"
}

@test "summarize: records measured differently are not compared silently" {
    record a 0.1 700 600 550 540 >a.json
    record b 0.1 700 600 550 540 | sed 's/"eps": 0.1, "step": 0.025, "steps": 20/"eps": 0.05, "step": 0.025, "steps": 20/' >b.json
    run --separate-stderr summarize a.json b.json
    assert_success
    assert_equal "${stderr_lines[0]}" "summarize: warning: b.json: line 1: pgd20 with eps 0.05, step 0.025, 20 steps, 1000 images; a.json: line 1 with eps 0.1, step 0.025, 20 steps, 1000 images"
}

@test "summarize --history: prints the chain of tools behind a record" {
    record a 0.1 700 600 550 540 >a.json
    run summarize --history a.json
    assert_success
    assert_line --index 0 "a.json: line 1: a"
    assert_line --index 1 "  adveval 0.1.0 --eps 0.1"
    assert_line --index 2 "    model abababababab: advtrain 0.1.0 --stage finetune --lr 0.05"
}

@test "summarize --history: finds the history inside a strategy file" {
    echo '{"resS":{"weight":{"search-0":{"rates":[0.1],"history":{"tool":"ddpg-search","version":"0.1.0","options":{"seed":7}}}}}}' >s.json
    run summarize --history s.json
    assert_success
    assert_line --index 0 "s.json: line 1: resS: weight: search-0"
    assert_line --index 1 "  ddpg-search 0.1.0 --seed 7"
}

@test "summarize --history --cell: the numbers behind a cell and the chain of each, down to the archive" {
    three_records
    record search-1 0.05 740 620 580 520 >t.json
    python3 -c '
import json
json.dump({"name": "D", "splits": {"train": {"digest": "ce" * 32}, "test": {"digest": "cd" * 32}}, "history": {
    "tool": "tfrec-convert", "options": {"seed": 5}, "inputs": [{"role": "archive", "sha256": "ef" * 32}]}},
    open("manifest.json", "w"))'
    run -0 summarize --history --cell resS,weight,0.1,searched,pgd20 --manifest manifest.json {d,u,s,t}.json
    assert_output "s.json: line 1: search-0
  pgd20: 60.00 % balanced 59.00 %, 600 of 1000 images
  adveval 0.1.0 --eps 0.1
    model abababababab: advtrain 0.1.0 --stage finetune --lr 0.05
    data cdcdcdcdcdcd (D, test): tfrec-convert --seed 5
      archive efefefefefef"
    run -0 summarize --history --cell searched {d,u,s,t}.json # all attacks of both
    assert_equal "$(grep -c "^[st].json: " <<<"$output")/$(wc -l <<<"$output")" 2/16
    run -1 --separate-stderr summarize --history --cell resS,0.2 {d,u,s,t}.json
    assert_equal "$stderr" "summarize: no record is of the cell 'resS,0.2'"
}
