#!/usr/bin/env bash
# Installs the distribution packages that are missing, and says which.
# usage: tools/setup.sh build|test|check|fuzz|ci
#
# build: what the program needs; test: and its tests; check: and the checks of the source; fuzz: and
# the fuzzer; ci: and everything that .ci/run uses.
set -eu
purpose=${1:?usage: tools/setup.sh build|test|check|fuzz|ci}

packages=(gcc libc6-dev binutils pkg-config libjansson-dev libpcre2-dev libutf8proc-dev libedit-dev
    libmicrohttpd-dev libgnutls28-dev libzmq3-dev)
if [ "$purpose" != build ]; then
    packages+=(libcmocka-dev curl python3 python3-venv chromium)
fi
case $purpose in
check) packages+=(clang-format-14) ;;
fuzz) packages+=(clang llvm) ;;
ci) packages+=(clang-format-14 clang qemu-user) ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "setup: not a Debian system; it must have what these packages hold: ${packages[*]}"
    exit 0
fi

# A package is there when it is installed, or when another that is installed provides it.
have=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package} ${Provides}\n' | sed -n 's/^ii *//p' |
    sed 's/([^)]*)//g; s/,/ /g' | tr -s ' ' '\n')
missing=()
for package in "${packages[@]}"; do
    grep -qx "$package" <<<"$have" || missing+=("$package")
done
# The tests' promtool comes without the service that it is packed with.
unpack=()
if [ "$purpose" != build ] && ! command -v promtool >/dev/null && [ ! -x build/tools/usr/bin/promtool ]; then
    unpack=(prometheus)
fi
[ $((${#missing[@]} + ${#unpack[@]})) -gt 0 ] || exit 0

echo "setup: installing ${missing[*]} ${unpack[*]}"
as_root=()
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: neither root nor sudo; install them by hand: apt-get install ${missing[*]}"
        exit 1
    fi
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
# A mirror may fail once, and a machine that has just started may be at its own updates.
apt() { "${as_root[@]}" apt-get -qq -o Acquire::Retries=5 -o DPkg::Lock::Timeout=600 "$@"; }
if [ ${#missing[@]} -gt 0 ]; then
    for try in 1 2 3 4 5; do
        apt update && break
        [ "$try" -lt 5 ] && sleep 20
    done
    apt install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
# Without a network the tests that want it skip.
for package in "${unpack[@]}"; do
    mkdir -p build/tools
    (cd build/tools && apt-get -qq -o Acquire::Retries=5 download "$package" 2>/dev/null &&
        dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x ./usr/bin/promtool &&
        rm -f "$package"_*.deb) || echo "setup: $package could not be unpacked"
done
