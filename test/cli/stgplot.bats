# stgplot: strategies as CSV, pgfplots and SVG.
setup() {
    load ../helpers
    # Three searches and a baseline of a network that the zoo does not know, in the published form.
    cat >stg.json <<'J'
{"tiny": {"weight": {
    "010_0": [1.0, 0.2, 0.1],
    "010_1": [0.5, 0.4, 0.1],
    "010_2": [0.6, 0.3, 0.1004],
    "010_uni": [0.1, 0.1, 0.1],
    "010_0_all": [0.9, 0.9, 0.9],
    "001_0": [0.01, 0.01, 0.01]}}}
J
}

wellformed() { # wellformed FILE...
    python3 -c 'import sys, xml.dom.minidom as x; [x.parse(f) for f in sys.argv[1:]]' "$@"
}

@test "stgplot: one series is median, reach below and reach above, to three decimals" {
    stgplot -q --rate 0.1 --series search -o fig stg.json
    printf 'layer\tmedian\tlow\thigh\n1\t0.600\t0.100\t0.400\n2\t0.300\t0.100\t0.100\n3\t0.100\t0.000\t0.000\n' >want.csv
    diff want.csv fig.csv
    wellformed fig.svg
    grep -q '(1, 0.600) += (0, 0.400) -= (0, 0.100)' fig.tex
}

@test "stgplot: the median of an even number is the mean of the middle two" {
    echo '{"tiny": {"weight": {"010_0": [0.1, 0.5], "010_1": [0.2, 0.5], "010_3": [0.9, 0.5], "010_4": [0.4, 0.5]}}}' >e.json
    stgplot -q -o fig e.json
    assert_equal "$(sed -n 2p fig.csv)" $'1\t0.300\t0.200\t0.600'
}

@test "stgplot: kinds and rates are series of their own, _all only when asked for" {
    run --separate-stderr stgplot -o fig stg.json
    assert_success
    assert_equal "$output" ""
    assert_equal "$stderr" "stgplot: tiny 0.1 searched (median of 3): 3 strategies, 3 layers
stgplot: tiny 0.1 uniform: 1 strategy, 3 layers
stgplot: tiny 0.01 searched: 1 strategy, 3 layers"
    assert_equal "$(head -2 fig.csv)" $'layer\tmedian\tlow\thigh\tseries\n1\t0.600\t0.100\t0.400\t0.1 searched (median of 3)'
    wellformed fig.svg
    run --separate-stderr stgplot --first-too --rate 0.1 --series search -o fig stg.json
    assert_equal "$stderr" "stgplot: tiny searched (median of 4): 4 strategies, 3 layers"
}

@test "stgplot: channel strategies repeat a block's first convolution at its shortcut" {
    # resnet18's channel entry n is n+1 hundredths: 18 entries become 21 layers (ALG 7.2)
    echo '{"resnet18": {"channel": {"05_0": [0.01,0.02,0.03,0.04,0.05,0.06,0.07,0.08,0.09,0.1,0.11,0.12,0.13,0.14,0.15,0.16,0.17,0.18]}}}' >c.json
    stgplot -q -o fig c.json
    assert_equal "$(awk 'NR > 1 { printf "%d ", $2 * 100 + 0.5 }' fig.csv)" \
        "1 2 3 4 5 6 6 7 8 9 10 10 11 12 13 14 14 15 16 17 18 "
    grep -q 'xticklabels={1,2-1-1,2-1-2,2-2-1,2-2-2,3-short,3-1-1,3-1-2,.*,5-2-2,fc1}' fig.tex
    grep -q '>3-short<' fig.svg
}

@test "stgplot: published names of the layers for every network of the zoo" {
    printf '{"vgg16_bn": {"weight": {"010_uni": [0.1%s]}}}' "$(printf ', 0.1%.0s' {1..15})" >v.json
    stgplot -q -o v v.json
    grep -q 'xticklabels={1,2,3,4,5,6,7,8,9,10,11,12,13,fc1,fc2,fc3}' v.tex
    printf '{"wrn_28_4": {"weight": {"010_uni": [0.1%s]}}}' "$(printf ', 0.1%.0s' {1..28})" >w.json
    stgplot -q -o w w.json
    grep -q 'xticklabels={1,2-short,2-1-1,2-1-2,2-2-1,.*,4-4-2,fc1}' w.tex
    printf '{"ResNet50": {"weight": {"010_uni": [0.1%s]}}}' "$(printf ', 0.1%.0s' {1..53})" >r.json
    stgplot -q -o r r.json
    grep -q 'xticklabels={1,2-short,2-1-1,2-1-2,2-1-3,2-2-1,.*,5-3-3,fc}' r.tex
}

@test "stgplot: weight and channel strategies of one kind do not look the same" {
    printf '{"resS": {"weight": {"010_uni": [0.1%s]}, "channel": {"05_uni": [0.5%s]}}}' \
        "$(printf ', 0.1%.0s' {1..9})" "$(printf ', 0.5%.0s' {1..7})" >both.json
    run stgplot -q -o both both.json
    assert_success
    assert_equal "$(grep -o "stroke-dasharray='[^']*'/>" both.svg | sort -u)" "stroke-dasharray='1.5 3'/>
stroke-dasharray='7 4'/>"
    assert_equal "$(grep -c 'mark=o.*, dashed, thick' both.tex) $(grep -c 'mark=o.*densely dotted, thick' both.tex)" "1 1"
}

@test "stgplot: what maskapply wrote is drawn, several files in one figure, ready for a layer table" {
    "$(dirname "$BIN")/test/mknn" resS 1 net.nn
    local rule
    for rule in lamp erk uniform; do
        maskapply -q --plan -r channel -s $rule:0.5 --label $rule --strategy-out $rule.json -o /dev/null net.nn
    done
    run --separate-stderr stgplot -o fig lamp.json erk.json uniform.json
    assert_success
    assert_equal "$stderr" "stgplot: resS uniform: 1 strategy, 10 layers
stgplot: resS ERK: 1 strategy, 10 layers
stgplot: resS LAMP: 1 strategy, 10 layers"
    for rule in uniform ERK LAMP; do
        grep -q ">$rule</text>" fig.svg
    done
    # entries find their layers by name, whatever their order
    python3 - <<'P'
import json
j = json.load(open("erk.json"))
e = j["resS"]["channel"]["erk"]
for key in "layers", "rates", "kept":
    e[key].reverse()
json.dump(j, open("reversed.json", "w"))
P
    stgplot -q -o a erk.json
    stgplot -q -o b reversed.json
    cmp a.csv b.csv
    # the same figure with the layers from a table instead of the zoo, under a name that the zoo lacks
    python3 - <<'P'
import json
names = [("conv1", 0, None)] + [(f"layer1.0.conv{i}", i, None) for i in (1, 2)]
for s, c in (2, 3), (3, 5):
    names += [(f"layer{s}.0.shortcut.0", c, f"layer{s}.0.conv1"), (f"layer{s}.0.conv1", c, None),
              (f"layer{s}.0.conv2", c + 1, None)]
names.append(("linear", 7, None))
json.dump({"layers": [{"name": n, "op": "linear" if n == "linear" else "conv2d", "channel_index": c, "tie": t}
                      for n, c, t in names]}, open("layers.json", "w"))
j = json.load(open("erk.json"))
json.dump({"mine": j["resS"]}, open("mine.json", "w"))
P
    stgplot -q --layers layers.json -o c mine.json
    cmp a.csv c.csv
}

@test "stgplot: weight and channel share the axis, each with its own rate, searched in the published colours" {
    local file=${REFERENCE:-$ROOT/../shared/reference}/strategies/heracles/CIFAR10.json
    [ -r "$file" ] || skip "no published strategies here"
    stgplot -q --arch resnet18 --reg channel,weight --rate 0.5,0.1 --series search -o fig "$file"
    assert_equal "$(wc -l <fig.csv)" 43
    grep -q 'definecolor{seriesa}{HTML}{006BA4}' fig.tex
    grep -q 'definecolor{seriesb}{HTML}{FF800E}' fig.tex
    assert_equal "$(sed -n 22p fig.csv | cut -f5)" "weight 0.1 searched (median of 5)"
    assert_equal "$(sed -n 23p fig.csv | cut -f5)" "channel 0.5 searched (median of 5)"
}

@test "stgplot: names from files cannot break TeX or XML" {
    echo '{"a<b>&_x": {"weight": {"my<i>&_{x}": [0.5], "other": [0.5]}}}' >odd.json
    stgplot -q -o fig odd.json
    wellformed fig.svg
    grep -q 'my&lt;i&gt;&amp;_{x}' fig.svg
    grep -q 'addlegendentry{my<i>\\&\\_\\{x\\}}' fig.tex
}

@test "stgplot: same strategies, same bytes" {
    stgplot -q -o a stg.json
    stgplot -q -o b stg.json
    cmp a.svg b.svg
    cmp a.tex b.tex
}

@test "stgplot: the TeX compiles where pdflatex and what it needs are installed" {
    stgplot -q -o a stg.json
    kpsewhich standalone.cls >/dev/null 2>&1 && kpsewhich pgfplots.sty >/dev/null || skip "no LaTeX with standalone and pgfplots"
    command -v pdflatex >/dev/null || skip "no pdflatex here"
    pdflatex -interaction=batchmode a.tex
    assert_exists a.pdf
}
