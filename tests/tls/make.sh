#!/usr/bin/env bash
# Makes the certificates of the tests of TLS: an authority, a server and a client that it has signed, and a stranger that it has not.
# Nobody trusts them but those tests, so their keys are no secrets.
set -eu
cd "$(dirname "$0")"
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" 2>/dev/null; }
key authority
openssl req -x509 -new -key authority.key -days 36500 -subj "/CN=tests' authority" -out authority.pem
for name in server client; do
    key "$name"
    openssl req -new -key "$name.key" -subj "/CN=$name" |
        openssl x509 -req -days 36500 -CA authority.pem -CAkey authority.key -CAcreateserial \
            -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1") -out "$name.pem" 2>/dev/null
done
key stranger
openssl req -x509 -new -key stranger.key -days 36500 -subj "/CN=stranger" -out stranger.pem
rm -f authority.key authority.srl
