# One damaged byte in every kind of file: the tables are in test/hostile.py.
setup() {
    load ../helpers
    load ../hostile
}

@test "a flipped bit in a network or a tfrecord is refused by every tool that reads it" {
    hostile flips 300
}

@test "a flipped bit in a gzip file is refused or changes no image and no label" {
    hostile flips_of_gzip 100
}

@test "a saved state that is cut, damaged or something else is refused, and stays" {
    hostile states 100
}

@test "a flipped bit in JSON or IDX is refused or makes another valid file" {
    hostile flips_of_others 250
}

@test "layer tables and records with missing or absurd values are refused or read, never a crash" {
    hostile tables 250
}
