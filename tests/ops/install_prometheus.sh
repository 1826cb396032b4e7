#!/bin/sh
# Prometheus and promtool, from the distribution, for `make test-ops`. Its service is not started: the tests
# run a Prometheus of their own.
set -eu
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make test-ops needs prometheus and promtool; on Debian or Ubuntu: sudo apt-get install prometheus" >&2
    exit 1
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    # Debian asks this file before a package starts its service.
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends prometheus >/dev/null
if command -v systemctl >/dev/null; then
    systemctl disable --quiet prometheus 2>/dev/null || true
fi
