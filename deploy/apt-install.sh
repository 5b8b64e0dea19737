#!/bin/sh
# Installs Debian packages, or says in one sentence what has to be installed by hand.
# Usage: apt-install.sh WHAT PACKAGE…
set -eu

what=$1
shift

give_up() {
    echo "velvetrope needs $what ($*), and could not install it here: $reason." >&2
    exit 1
}

as_root=
if ! command -v apt-get >/dev/null 2>&1; then
    reason='there is no apt-get'
    give_up "$@"
elif [ "$(id -u)" != 0 ]; then
    # Without a terminal sudo must not ask for a password: nobody would answer.
    if command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        as_root='sudo'
    else
        reason='this is not root, and sudo needs a password'
        give_up "$@"
    fi
fi

echo "installing $what: $*" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1
}
# Package lists may be missing or old: get them only if it does not work without.
if ! install "$@" && ! { $as_root apt-get update -qq >"$log" 2>&1 && install "$@"; }; then
    tail -n 5 "$log" >&2
    reason='apt-get failed as shown above'
    give_up "$@"
fi
