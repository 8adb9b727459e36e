# make deps: pipelines/packages with a package system of our own in front of the real one.
setup() {
    load ../helpers
    mkdir sys
    # This system has gcc and make, and knows a package that was removed.
    cat >sys/dpkg-query <<'S'
#!/bin/sh
for p; do
    case $p in
    gcc | make) echo "installed $p" ;;
    removed) echo "config-files removed" ;;
    esac
done
S
    cat >sys/apt-get <<'S'
#!/bin/sh
echo "apt-get $*" >>calls
S
    cat >sys/sudo <<'S'
#!/bin/sh
echo "sudo" >>calls
exec "$@"
S
    cat >sys/id <<'S'
#!/bin/sh
echo "${FAKE_UID:-0}"
S
    chmod +x sys/*
    export PATH="$PWD/sys:$PATH"
}

@test "packages: says and does nothing when all is there" {
    run "$ROOT/pipelines/packages" install gcc make
    assert_success
    assert_output ""
    assert_not_exists calls
}

@test "packages: prints the list of what is missing, then installs exactly that" {
    run "$ROOT/pipelines/packages" install gcc libfoo-dev removed make
    assert_success
    assert_line --index 0 "installing Debian packages: libfoo-dev removed"
    assert_equal "$(cat calls)" "apt-get update -q
apt-get install -y -q --no-install-recommends libfoo-dev removed"
}

@test "packages: goes through sudo when not root" {
    FAKE_UID=1000 run "$ROOT/pipelines/packages" install libfoo-dev
    assert_success
    assert_equal "$(head -n 1 calls)" sudo
    assert_equal "$(tail -n 1 calls)" "apt-get install -y -q --no-install-recommends libfoo-dev"
}

@test "packages: a failing apt-get fails make deps" {
    printf '#!/bin/sh\nexit 100\n' >sys/apt-get
    run -100 "$ROOT/pipelines/packages" install libfoo-dev || true
    [ "$status" -ne 0 ]
}

@test "packages: check names what is missing and points at make deps" {
    run --separate-stderr "$ROOT/pipelines/packages" check gcc libfoo-dev
    assert_failure 1
    assert_equal "$stderr" "missing Debian packages: libfoo-dev (make deps installs them)"
    assert_not_exists calls
}

@test "a build without its packages says first what is missing, every time" {
    printf '#!/bin/sh\nexit 1\n' >sys/cc
    chmod +x sys/cc
    for time in first second; do
        run make -C "$ROOT" BUILD="$PWD/b" CC=cc all
        assert_failure
        assert_line --partial "missing Debian packages: libc6-dev libopenblas-serial-dev"
    done
}
