# Every kind of bad input for every tool: the tables are in test/hostile.py. Each is refused with status 1 and one
# line that names it, within a time limit, and the products of older runs stay as they were.
setup() {
    load ../helpers
    load ../hostile
}

@test "every tool refuses what is no file of its kind: missing, empty, a directory, endless, of another tool" {
    hostile foreign 400
}

@test "every tool refuses files and streams that are cut at a field's boundary or inside it" {
    hostile cut 500
}

@test "lengths that lie take no memory, from files and from pipes" {
    hostile lies 50
}

@test "sound files that do not fit are refused: shapes, labels, versions, weights that are no numbers" {
    hostile wrong 100
}

@test "strategies that are too short, name unknown layers or leave (0,1] are refused" {
    hostile strategies 100
}
