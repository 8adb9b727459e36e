# summarize --compare: the paper's tables, from records and from the published raw sheets.
setup() {
    load ../helpers
    load ../fashion
    SHEETS=${REFERENCE:-$ROOT/../shared/reference}/results
}

# records [STRATEGY:CLEAN:PGD20]...: evaluation records of one network pruned to a tenth by HYDRA
records() {
    python3 - "$@" <<'EOF'
import json, sys
for i, arg in enumerate(sys.argv[1:]):
    strategy, clean, pgd = arg.rsplit(":", 2)
    attacks = []
    for name, value in ("clean", clean), ("pgd20", pgd):
        a = dict(name=name, images=10000, correct=round(100 * float(value)), accuracy=float(value), balanced=float(value))
        if name != "clean":
            a.update(eps=0.1, step=0.025, steps=20, restarts=1)
        attacks.append(a)
    print(json.dumps(dict(
        record="eval", version=1, model=dict(arch="resS", digest="%064x" % i, params=100, label=strategy),
        pruning=dict(reg="weight", strategy=strategy, rate=0.1, density=0.1, budget=dict(inout=.1, masked=.1, macs=.2)),
        data=dict(name="D_1", images=10000, digest="cd"), attacks=attacks,
        history=dict(tool="adveval", options={}, inputs=[dict(role="model", history=dict(tool="advtrain", options=dict(
            stage="finetune"), inputs=[dict(role="model", history=dict(tool="advtrain", options=dict(stage="prune"), inputs=[]))]))]))))
EOF
}

@test "summarize --compare: mean, sample deviation and difference of the searched strategies" {
    records uniform:0.1:70:40 search-0:72:41 search-1:74:40.5 search-2:70.5:42 erk:0.1:80:50 >r.json
    run --separate-stderr summarize --compare --csv t.csv --latex t.tex r.json
    assert_success
    assert_equal "$stderr" "summarize: warning: r.json: line 5: erk:0.1 is neither uniform nor searched: left out"
    assert_line --index 0 "D_1, weight pruning: uniform, searched (mean +- deviation), difference"
    assert_line --regexp "^resS +hydra +0.1 +3 +\| +70.00 72.17 \+- 1.76 +\+2.17"
    python3 - <<'EOF'
import csv, statistics
(row,) = csv.DictReader(open("t.csv", newline=""))
for attack, uniform, values in ("clean", 70, [72, 74, 70.5]), ("pgd20", 40, [41, 40.5, 42]):
    mean = statistics.mean(values)
    for name, want in ("uniform", uniform), ("mean", mean), ("std", statistics.stdev(values)), ("diff", mean - uniform):
        assert abs(float(row[attack + "_" + name]) - want) < 1e-8, (attack, name, row)
assert (row["method"], row["rate"], row["searched_runs"], row["fgsm_mean"]) == ("hydra", "0.1", "3", "")
EOF
    grep -F 'D\_1, weight pruning' t.tex
    grep -F '\textbf{72.17}{\,$\pm$\,1.76}' t.tex
}

@test "summarize --compare: five strategies under six attacks, laid out as the paper's tables" {
    python3 - >r.json <<'EOF'
import json
attacks = ["clean", "fgsm", "pgd10", "pgd20", "cw", "aa"]
for i, strategy in enumerate(["uniform:0.1"] + ["search-%d" % k for k in range(5)]):
    for reg in "channel", "weight":
        entries = [dict(name=a, images=1000, correct=700 - 100 * k + 10 * i, accuracy=70 - 10 * k + i, balanced=50 - 5 * k + i)
                   for k, a in enumerate(attacks)]
        for e in entries[1:]:
            e.update(eps=0.1, steps=1, restarts=1)
        print(json.dumps(dict(
            record="eval", version=1, model=dict(arch="resS", digest="%s%063x" % ("cw".index(reg[0]), i), params=100, label=strategy),
            pruning=dict(reg=reg, strategy=strategy, rate=0.1, density=0.1, budget=dict(inout=.1, masked=.1, macs=.2)),
            data=dict(name="SVHN", images=1000, digest="cd"), attacks=entries, history=dict(tool="adveval", options={}, inputs=[]))))
EOF
    summarize --compare -a published --csv t.csv --latex t.tex r.json >t.txt
    python3 - <<'EOF'
import csv, re
titles = ["natural", "FGSM", "PGD-10", "PGD-20", "C&W", "AutoAttack"]
rows = list(csv.DictReader(open("t.csv", newline="")))
assert [r["reg"] for r in rows] == ["channel", "weight"]
for r in rows:
    assert (r["uniform_runs"], r["searched_runs"]) == ("1", "5")
    for k, a in enumerate(["clean", "fgsm", "pgd10", "pgd20", "cw", "aa"]):  # balanced, as SVHN's are; searched: +1 to +5
        got = [float(r[a + "_" + what]) for what in ("uniform", "mean", "std", "diff")]
        assert all(abs(g - w) < 1e-6 for g, w in zip(got, [50 - 5 * k, 53 - 5 * k, 2.5 ** 0.5, 3])), (a, got)
# LaTeX: every row has the columns that the head declares; three groups of the six attacks
tex = open("t.tex").read()
columns = 3 + int(re.search(r"\\begin{tabular}{llr\*{(\d+)}{r}}", tex).group(1))
assert columns == 3 + 3 * 6
assert re.findall(r"\\multicolumn\{6\}{c}{(\w+)}", tex) == ["uniform", "searched", "difference"]
head = next(l for l in tex.splitlines() if l.startswith("network &"))
cells = [c.strip() for c in re.split(r"(?<!\\)&", head.rstrip("\\ "))]
assert cells == ["network", "method", "rate"] + 3 * [t.replace("&", r"\&") for t in titles], cells
for l in tex.splitlines():
    if l.startswith("resS"):
        assert len(re.split(r"(?<!\\)&", l)) == columns, l
assert re.findall(r"{l}{(.*?)} ", tex) == ["SVHN, %s pruning, balanced accuracy" % reg for reg in ("channel", "weight")]
assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 1 and tex.count(r"\midrule") == 2
# text: under each title its column
head, row = open("t.txt").read().splitlines()[1:3]
bars = [[i for i, c in enumerate(l) if c == "|"] for l in (head, row)]
assert bars[0] == bars[1] and [head[b + 2 :].split("  ")[0] for b in bars[0]] == titles, (head, row)
EOF
}

@test "summarize --compare: bold is what is within the margin of the best, as in the published sheets" {
    bold() { # bold UNIFORM SEARCHED: which of uniform, mean and difference are
        records uniform:0.1:"$1":40 search-0:"$2":40 >r.json
        summarize --compare -f latex r.json | grep '^resS' | tr '&' '\n' | sed -n '4p;9p;14p' |
            grep -c textbf | tr -d '\n'
        summarize --compare -f latex r.json | grep '^resS' | tr '&' '\n' | sed -n '4p;9p;14p' | sed 's/^ *//' |
            grep -n textbf | cut -d: -f1 | tr -d '\n'
    }
    assert_equal "$(bold 70 71)" 223  # better by more than the margin: mean and difference
    assert_equal "$(bold 70 70.4)" 3123 # within it: both, and a difference above 0
    assert_equal "$(bold 70 69.6)" 212 # both
    assert_equal "$(bold 70 69)" 11   # uniform alone
}

@test "summarize --compare: what cannot be is refused" {
    records uniform:0.1:70:40 search-0:72:41 >r.json
    run -1 --separate-stderr summarize --compare r.json r.json
    assert_equal "$stderr" "summarize: r.json: line 1: the same network as in r.json: line 1"
    local bad
    printf 'arch,method,compressionrate,unioa,R1-oa\nvgg,hydra,0.1,70,101\n' >weight_cifar10.csv
    run -1 --separate-stderr summarize --compare --sheet weight_cifar10.csv
    assert_equal "$stderr" "summarize: weight_cifar10.csv: line 2: R1-oa is '101', a number from 0 to 100 is needed"
    printf 'arch,method,compressionrate,unioa,R1-oa\nvgg,hydra,0.1,70,\n' >weight_cifar10.csv
    run -1 --separate-stderr summarize --compare --sheet weight_cifar10.csv
    assert_regex "$stderr" "line 2: no numbers of a searched strategy"
    printf 'arch,method,compressionrate,unioa,R1-oa\nvgg,hydra,0.1,70,71\nvgg,hydra,0.1,70,71\n' >weight_cifar10.csv
    run -1 --separate-stderr summarize --compare --sheet weight_cifar10.csv
    assert_regex "$stderr" "line 3: vgg16_bn, hydra, rate 0.1 is there twice"
    for bad in '' 'arch\n' 'a,b\nc\n' '\0\0'; do
        printf "$bad" >weight_cifar10.csv
        run -1 --separate-stderr summarize --compare --sheet weight_cifar10.csv
        assert_equal "${#stderr_lines[@]}" 1
    done
    printf 'arch,"method\nc\n' >weight_cifar10.csv
    run -1 --separate-stderr summarize --compare --sheet weight_cifar10.csv
    assert_regex "$stderr" "a quote is not closed"
    touch other.csv
    run -1 --separate-stderr summarize --compare --sheet other.csv
    run -2 --separate-stderr summarize --sheet weight_cifar10.csv r.json
    run -2 --separate-stderr summarize
}

@test "summarize --compare: the published raw results reproduce the published means, and deviations but where R1 was left out" {
    [ -e "$SHEETS/adveval_weight_cifar10.csv" ] || skip "no published results"
    local s sheets=()
    for s in "$SHEETS"/*.csv; do sheets+=(--sheet "$s"); done
    run --separate-stderr summarize --compare --csv t.csv "${sheets[@]}"
    assert_success
    # each sheet's own numbers are compared while it is read; these rows are known to be wrong, no others are
    refute_regex "$stderr" "the sheet's mean"
    assert_equal "$(grep "the sheet's deviation" <<<"$stderr" | grep -vc ": vgg16_bn radmm 0\.[15]: ")" 0
    assert_equal "$(grep -c "the sheet's deviation" <<<"$stderr")" 20
    assert_equal "$(grep -c "has collapsed" <<<"$stderr")" 17
    python3 - <<'EOF'
import csv
rows = {(r["data"], r["reg"], r["arch"], r["method"], r["rate"]): r for r in csv.DictReader(open("t.csv", newline=""))}
assert len(rows) == 52
def near(key, column, want):
    assert abs(float(rows[key][column]) - want) < 0.005, (key, column, rows[key][column])
vgg = ("CIFAR10", "channel", "vgg16_bn", "hydra", "0.5")
for column, want in ("clean_uniform", 69.92), ("pgd10_uniform", 39.82), ("clean_mean", 76.82), ("pgd10_mean", 47.06):
    near(vgg, column, want)
near(("CIFAR10", "weight", "resnet18", "hydra", "0.01"), "pgd10_mean", 44.43)
near(("ImageNet", "weight", "ResNet50", "hydra", "0.1"), "clean_mean", 48.71)
assert rows["ImageNet", "weight", "ResNet50", "hydra", "0.1"]["clean_std"] == ""
EOF
}

@test "summarize --xlsx: the cells of the CSV, and the same bytes every time" {
    records uniform:0.1:70:40 'search-"0", <&>:72:41' search-1:74:40.5 >r.json
    summarize --xlsx a.xlsx --csv a.csv r.json
    summarize --compare --xlsx c.xlsx --csv c.csv r.json >c.txt
    sleep 1.1 # a time in it would be another now
    summarize --xlsx b.xlsx r.json
    cmp a.xlsx b.xlsx
    python3 - <<'EOF'
import csv, re, zipfile
from xml.etree import ElementTree
NS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
def cells(path):
    z = zipfile.ZipFile(path)
    strings = ["".join(t.text or "" for t in si.iter(NS + "t")) for si in ElementTree.fromstring(z.read("xl/sharedStrings.xml"))]
    out = {}
    for c in ElementTree.fromstring(z.read("xl/worksheets/sheet1.xml")).iter(NS + "c"):
        column, row = re.match("([A-Z]+)([0-9]+)", c.get("r")).groups()
        at = 0
        for letter in column:
            at = 26 * at + ord(letter) - 64
        v = c.find(NS + "v").text
        out[int(row) - 1, at - 1] = strings[int(v)] if c.get("t") == "s" else float(v)
    return out
for name in "ac":
    want = {}
    for i, row in enumerate(csv.reader(open(name + ".csv", newline=""))):
        for k, v in enumerate(row):
            if v:
                try:
                    want[i, k] = float(v) if len(v) < 64 else v # a digest of digits stays text
                except ValueError:
                    want[i, k] = v
    got = cells(name + ".xlsx")
    assert set(got) == set(want), set(got) ^ set(want)
    for at, v in want.items():
        assert got[at] == v or (type(v) is float and abs(got[at] - v) < 1e-9), (at, got[at], v)
print("fine")
EOF
    TMPDIR=$PWD/nowhere run -1 --separate-stderr summarize --xlsx d.xlsx r.json
    assert_refused d.xlsx
}
