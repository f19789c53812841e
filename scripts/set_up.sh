#!/bin/sh
# Makes .venv ready for the named extras ("report" or "report,dev"); does nothing when it is ready already.
#
#   python 3.11+ -> .venv -> torch (first, pinned) -> fovea, editable, as constraints.txt pins it -> .venv/.ready
#
# .venv/.ready says what was installed: when pyproject.toml, constraints.txt, the folder or the Python change, it is redone.
# .venv/.installing exists only while something is being installed: found at the start, it means that the last set-up
# was stopped halfway, and .venv is made anew (what was downloaded comes from pip's cache).
set -eu

extras=$1
here=$(pwd -P)
venv=$here/.venv
bin=$venv/bin
ready=$venv/.ready
installing=$venv/.installing
torch=${TORCH:-torch==2.13.0}

say() { printf '%s\n' "$*"; }

fail() {
    printf '\nset-up stopped: %s\n' "$*" >&2
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a program on this machine; give one that is, as in PYTHON=python3.12"
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is older than Python 3.11; fovea needs 3.11 or newer"
        printf '%s' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found; install one, or name it: make demo PYTHON=/path/to/python3.12"
}

wanted() {
    printf '%s\n' "$here" "${PYTHON:-any}" "$torch"
    cat pyproject.toml constraints.txt | cksum
}

first_lines() { head -n "$1" "$ready"; }

is_ready() {
    [ -f "$ready" ] && [ -x "$bin/python" ] && [ ! -e "$installing" ] || return 1
    [ "$(first_lines 4)" = "$(wanted)" ] || return 1
    case ",$(tail -n 1 "$ready")," in
        *",$extras,"*) return 0 ;;
    esac
    return 1
}

install() {
    what=$1
    shift
    touch "$installing"
    status=0
    "$bin/python" -m pip install --disable-pip-version-check --no-input "$@" || status=$?
    [ "$status" -lt 128 ] || exit "$status"
    rm -f "$installing"
    [ "$status" -eq 0 ] || fail "pip could not install $what (its own words are above). Check the network and the free disk space
(about 2 GB), then run the same command again: it goes on from here."
}

[ -f pyproject.toml ] || fail "run it from the folder that holds pyproject.toml, through make"
is_ready && exit 0

python=$(find_python)
say "fovea sets itself up in .venv (once; about 3 minutes and 2 GB; needs the network)"

if [ -e "$installing" ]; then
    say "  the last set-up was stopped halfway: making .venv anew"
    rm -rf "$venv"
elif [ -d "$venv" ] && [ -f "$ready" ] && [ "$(first_lines 2)" != "$(wanted | head -n 2)" ]; then
    say "  .venv belongs to another folder or Python: making it anew"
    rm -rf "$venv"
elif [ -d "$venv" ] && ! "$bin/python" -m pip --version >/dev/null 2>&1; then
    say "  .venv does not work: making it anew"
    rm -rf "$venv"
fi

say "[1/3] .venv with $("$python" --version)"
if [ ! -x "$bin/python" ]; then
    "$python" -m venv "$venv" || fail "$python could not make a virtual environment. On Debian or Ubuntu: apt install python3-venv"
fi
rm -f "$ready"

say "[2/3] $torch (the largest download)"
# shellcheck disable=SC2086  # TORCH may carry pip options
install torch $torch

say "[3/3] fovea[$extras] and the packages it uses, as pinned in constraints.txt"
install "fovea's packages" --constraint constraints.txt --editable ".[$extras]"

"$bin/python" -c 'import fovea, torch' || fail "the installed packages do not import; run make clean and try again"
{ wanted; say "$extras"; } >"$ready.partial"
mv "$ready.partial" "$ready"
say "set-up done"
