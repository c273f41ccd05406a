#!/bin/sh
# The tests talk to real servers. On Debian as root they are installed; elsewhere this says what is missing.
set -eu
missing=""
need() { # PACKAGE PROGRAM...
    package=$1; shift
    for program; do
        [ -x "$program" ] || { missing="$missing $package"; return 0; }
    done
}
need dovecot-imapd /usr/sbin/dovecot
need dovecot-pop3d /usr/lib/dovecot/pop3
need dovecot-lmtpd /usr/lib/dovecot/lmtp
need postfix /usr/sbin/postfix
need nginx-light /usr/sbin/nginx
need dnsmasq-base /usr/sbin/dnsmasq
need prometheus /usr/bin/promtool
need prometheus-blackbox-exporter /usr/bin/prometheus-blackbox-exporter
need monitoring-plugins-basic /usr/lib/nagios/plugins/check_imap
need nftables /usr/sbin/nft
need dnsmasq-base /usr/sbin/dnsmasq
need iproute2 /usr/bin/unshare /sbin/ip
need poppler-utils /usr/bin/pdftotext
need openssl /usr/bin/openssl
need faketime /usr/bin/faketime
need chromium /usr/bin/chromium
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # No service is started: the tests run the programs with their own configuration and high ports.
    printf '#!/bin/sh\nexit 101\n' >/tmp/mailwatch-policy && chmod +x /tmp/mailwatch-policy
    [ -e /usr/sbin/policy-rc.d ] || { cp /tmp/mailwatch-policy /usr/sbin/policy-rc.d; made=1; }
    apt-get -qq update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
    [ -z "${made:-}" ] || rm -f /usr/sbin/policy-rc.d
else
    echo "mailwatch: without these packages some tests are skipped:$missing" >&2
    echo "cure: sudo apt-get install$missing" >&2
fi
