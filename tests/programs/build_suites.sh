#!/bin/sh
# Fetches the sources of libuv and libevent as Debian packages them, and builds their own tests: `DIRECTORY`. The
# system's package lists stay as they are.
set -e
cd "$1"
mkdir -p lists/partial
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $release main" > list
options="-o Dir::Etc::sourcelist=$PWD/list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$PWD/lists -o APT::Sandbox::User=root"
apt-get $options -q update
apt-get $options -q source --download-only libuv1 libevent
for archive in *.orig.tar.gz; do
    tar xf "$archive"
done

cd "$1"/libuv1-*
sources="fs-poll idna inet random strscpy strtok threadpool timer uv-common uv-data-getter-setters version"
for part in async core dl fs getaddrinfo getnameinfo loop loop-watcher pipe poll process random-devurandom \
    random-getrandom random-sysctl-linux signal stream tcp thread tty udp linux linux-core linux-inotify \
    linux-syscalls procfs-exepath proctitle epoll; do
    if [ -f "src/unix/$part.c" ]; then
        sources="$sources unix/$part"
    fi
done
tests=$(sed -n '/^test_run_tests_SOURCES/,/^$/p' Makefile.am | grep -o 'test/[a-z0-9_-]*\.c' | grep -v -e win)
mkdir -p objects
{
    for source in $sources; do
        echo "src/$source.c"
    done
    printf '%s\n' $tests test/runner-unix.c
} | sort -u | xargs -P 2 -I{} sh -c \
    'gcc -O0 -w -D_GNU_SOURCE -Iinclude -Isrc -c {} -o "objects/$(echo {} | tr / _).o"'
# Some tests include the source that they test.
gcc -Wl,--allow-multiple-definition -o run-tests objects/*.o -lpthread -ldl -lrt -lutil

cd "$1"/libevent-*
./configure --disable-openssl --disable-shared --disable-samples --disable-debug-mode > configure.log
make -j2 > make.log
make -j2 test/regress >> make.log
