#!/bin/sh
# Installs what the tests run beside Python: Redis, nginx with Lua, HAProxy, Caddy, Chromium, Java 17,
# Maven, Kafka's jars into .cache/kafka, and LiteLLM into .cache/litellm. What is there already is
# left alone, so that this takes a second the next time.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/usr/local/sbin

has() {
    command -v "$1" >/dev/null 2>&1
}

java_major() {
    # "17.0.15" gives 17; "1.8.0_412" gives 1, which is too old all the same.
    java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1
}

apt() {
    "$root/deploy/apt-install.sh" "$@"
}

has redis-server || apt 'Redis' redis-server
has nginx || apt 'nginx' nginx-light
has chromium || has chromium-browser || apt 'Chromium' chromium
has caddy || apt 'Caddy' caddy
# nginx-extras, which lua-nginx-redis wants, stands beside nginx-light.
[ -e /usr/lib/nginx/modules/ngx_http_lua_module.so ] && [ -e /usr/share/lua/5.1/nginx/redis.lua ] &&
    ls /usr/lib/*/lua/5.1/cjson.so >/dev/null 2>&1 ||
    apt "nginx's Lua" libnginx-mod-http-lua lua-nginx-redis lua-cjson
has haproxy || apt 'HAProxy' haproxy
if ! has java || [ "$(java_major)" -lt 17 ]; then
    apt 'Java 17 or later' default-jre-headless
fi
has mvn || apt 'Maven' maven
cd "$root"
"$root/deploy/uv.sh" run --frozen --quiet python -m tests.real_kafka --fetch >/dev/null
# LiteLLM's pins and ours do not agree, so it has an environment of its own.
[ -x .cache/litellm/bin/python ] || "$root/deploy/uv.sh" venv --quiet .cache/litellm
"$root/deploy/uv.sh" pip sync --quiet --python .cache/litellm --require-hashes tests/litellm/requirements.txt
