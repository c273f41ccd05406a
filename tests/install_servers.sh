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
need nodejs /usr/bin/node
need faketime /usr/bin/faketime
need chromium /usr/bin/chromium
need postgresql-15 /usr/lib/postgresql/15/bin/postgres
need pgbouncer /usr/sbin/pgbouncer

# Cyrus, Courier, Exim and OpenSMTPD cannot be installed beside Dovecot and Postfix (their packages conflict), and their
# paths are compiled in. So each has a small root folder of its own, which tests/servers/rooted.py copies and enters.
roots=$(cd "$(dirname "$0")/.." && pwd)/build/servers
libraries() { # PACKAGE...: the libraries that these packages need, theirs included
    todo="$*" known=" "
    while [ -n "$todo" ]; do
        # shellcheck disable=SC2086
        todo=$(apt-cache depends --important $todo | sed -n 's/^ [ |]*\(Pre\)\?Depends: \(lib[^<:]*\)$/\2/p' | sort -u)
        fresh=""
        for name in $todo; do
            case $known in *" $name "*) ;; *) known="$known$name " fresh="$fresh $name" ;; esac
        done
        todo=$fresh
    done
    echo "$known"
}
root_of() { # NAME PACKAGE...
    name=$1; shift
    rm -rf "$roots/$name.new" && mkdir -p "$roots/$name.new/packages"
    # shellcheck disable=SC2046
    (cd "$roots/$name.new/packages" &&
        apt-get -qq -o APT::Sandbox::User=root download "$@" zlib1g $(libraries "$@")) || return 1
    for package in "$roots/$name.new/packages"/*.deb; do
        dpkg-deb --extract "$package" "$roots/$name.new" || return 1
    done
    (cd "$roots/$name.new" && rm -rf packages usr/share/doc usr/share/man usr/share/locale usr/share/info \
        usr/lib/*/gconv usr/lib/*/perl usr/lib/*/systemd usr/lib/python3* usr/share/gcc usr/lib/systemd lib/systemd)
    echo "$*" >"$roots/$name.new/packages"
    rm -rf "${roots:?}/$name" && mv "$roots/$name.new" "$roots/$name"
}
rooted() { # NAME PACKAGE...
    name=$1; shift
    [ "$(cat "$roots/$name/packages" 2>/dev/null)" != "$*" ] || return 0
    if [ -z "${listed:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get -qq update
        listed=1
    fi
    root_of "$name" "$@" 2>"$roots.log" || {
        echo "mailwatch: without $name some tests are skipped; its packages cannot be had here: $*" >&2
        cat "$roots.log" >&2
    }
}
mkdir -p "$roots"
rooted courier courier-base courier-imap courier-pop courier-authlib courier-authdaemon courier-authlib-userdb
rooted cyrus cyrus-common cyrus-imapd cyrus-pop3d sasl2-bin tzdata
rooted exim exim4-base exim4-daemon-heavy
rooted opensmtpd opensmtpd tcc
# For amtool, which checks prometheus/alertmanager.yml; its service is not wanted here.
rooted alertmanager prometheus-alertmanager
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # No service is started: the tests run the programs with their own configuration and high ports.
    printf '#!/bin/sh\nexit 101\n' >/tmp/mailwatch-policy && chmod +x /tmp/mailwatch-policy
    [ -e /usr/sbin/policy-rc.d ] || { cp /tmp/mailwatch-policy /usr/sbin/policy-rc.d; made=1; }
    apt-get -qq update
    # The tests make clusters of their own.
    mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/mailwatch.conf
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
    [ -z "${made:-}" ] || rm -f /usr/sbin/policy-rc.d
else
    echo "mailwatch: without these packages some tests are skipped:$missing" >&2
    echo "cure: sudo apt-get install$missing" >&2
fi
