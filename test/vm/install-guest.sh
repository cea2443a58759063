# Runs inside the virtual machine of debian.sh: the Debian packages as an administrator
# and a user meet them. Version 1.0 first, then 2.0; the machine reboots in between.
. /test/lib
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
stage=$(cat /var/stage 2>/dev/null || echo 1)
bad=$(cat /var/bad 2>/dev/null || echo 0)

end() {
	[ $bad = 0 ] || { journalctl -u hezi --no-pager -o cat | tail -n 25; }
	echo "exit code $bad."
	poweroff -f
	exit
}
of() { hezi inspect -f "$2" "$1"; }
as() { su user -s /bin/sh -c "$*"; }
# load: the modules whose files are named on standard input, that are not there yet.
load() {
	while read -r module; do
		lsmod | grep -q "^$(basename "$module" .ko | tr - _) " || insmod "/test/modules/$module" || echo "insmod $module failed"
	done
}
firewall='^\(nf\|libcrc32c\|x_tables\)'

if [ "$stage" = 1 ]; then
	echo "the engine under systemd, from its packages, Linux $(uname -r), $(uptime) s"
	check "a kernel without bridges" "the kernel has no bridges: load the module bridge" dpkg -i /test/hezi-1.0.deb
	check "nothing is changed" "No such file" ls /usr/bin/hezid
	check "no group is made" "ok" sh -c 'getent group hezi || echo ok'
	sed "/$firewall/,\$d" /test/modules.list | load
	check "a kernel without nf_tables" 'hezid starts only with "iptables": false and "ip6tables": false' dpkg -i /test/hezi-1.0.deb
	eventually sh -c 'journalctl -u hezi | grep -q modprobe'
	check "the engine says what to do" 'modprobe -a nf_tables' journalctl -u hezi --no-pager -o cat
	echo '{"iptables": false, "ip6tables": false}' >/etc/hezi/daemon.json
	code "without its rules" 0 systemctl restart hezi
	check "it runs" "1.0" hezi version -f '{{.Server.Version}}'
	code "purge that" 0 dpkg -P hezi
	load </test/modules.list
	# The next boot has them before the engine starts, or that gives up.
	printf '[Unit]\nBefore=hezi.service\nRequiresMountsFor=/test\n[Service]\nType=oneshot\nExecStart=/bin/sh -c "while read -r m; do insmod /test/modules/$$m; done </test/modules.list"\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/modules-test.service
	systemctl enable -q modules-test.service
	code "install" 0 dpkg -i /test/hezi-1.0.deb
	check "the service runs" "is active" sh -c 'echo "is $(systemctl is-active hezi.service)"'
	[ $bad = 0 ] || end
	check "and is enabled" "enabled" systemctl is-enabled hezi.service hezi.socket
	check "its version" "1.0" hezi version -f '{{.Server.Version}}'
	echo 'OPTIONS="--label from=options"' >/etc/default/hezi
	mkdir -p /etc/sysconfig
	echo 'HEZI_STORAGE_OPTIONS="--label storage=too"' >/etc/sysconfig/hezi-storage
	code "options of the administrator's" 0 systemctl restart hezi
	check "hezid has them" "from=options storage=too" sh -c 'hezi info -f "{{.Labels}}"'
	rm -r /etc/sysconfig
	check "the socket is the group's" "660 root hezi" stat -c '%a %U %G' /run/hezi/hezi.sock
	check "no remark of systemd's on the units" "ok" sh -c 'systemd-analyze verify --man=no hezi.service hezi.socket 2>&1 | grep hezi || echo ok'
	check "its AppArmor profile is loaded" "hezi-default (enforce)" cat /sys/kernel/security/apparmor/profiles
	tar -C /test/image -c . >/tmp/image.tar
	code "an image" 0 hezi import /tmp/image.tar busybox
	code "run" 0 hezi run -d --restart always --name box busybox sleep 100000
	code "with a port" 0 hezi run -d --restart unless-stopped --name web -p 127.0.0.1:8080:80 busybox httpd -f -h /etc
	eventually busybox wget -qO- http://127.0.0.1:8080/passwd
	check "which answers" "root:x:0" busybox wget -qO- http://127.0.0.1:8080/passwd
	code "output for the journal" 0 hezi run --rm --name said --log-driver journald --log-opt tag=told busybox echo said to the journal
	eventually sh -c 'journalctl CONTAINER_NAME=said -o cat | grep -q "said to the journal"'
	check "it is there, under its tag" "told" journalctl CONTAINER_NAME=said --no-pager -o short

	check "AppArmor as the package has it" "root:x:0" hezi run --rm busybox cat /etc/passwd
	mkdir -p /etc/apparmor.d/local
	echo 'deny /etc/passwd r,' >/etc/apparmor.d/local/hezi-default
	echo 'profile hezi-default { }' | apparmor_parser -R
	check "with a change of the administrator's" "Permission denied" hezi run --rm busybox cat /etc/passwd
	rm /etc/apparmor.d/local/hezi-default
	apparmor_parser -r /etc/apparmor.d/hezi-default

	useradd -m user
	check "a user without the group" "usermod -aG hezi" as hezi ps
	usermod -aG hezi user
	check "and with it" "box" as hezi ps

	before=$(of box '{{.State.Pid}}')
	code "reload" 0 systemctl reload hezi
	code "restart" 0 systemctl restart hezi
	check "its container runs on" "$before" of box '{{.State.Pid}}'
	code "stop" 0 systemctl stop hezi.service
	check "its container runs on without it" "sleep" cat "/proc/$before/comm"
	check "the socket starts it" "box" hezi ps
	check "the same container" "$before" of box '{{.State.Pid}}'

	echo '{"log-level": "debug",}' >/etc/hezi/daemon.json
	code "upgrade" 0 dpkg -i --force-confold /test/hezi-2.0.deb
	check "the new version" "2.0" hezi version -f '{{.Server.Version}}'
	check "of the keeper too" "2.0" sh -c 'hezi version | grep -A1 hezi-keeper'
	check "the configuration is the administrator's" "debug" cat /etc/hezi/daemon.json
	check "over the upgrade the container runs on" "$before" of box '{{.State.Pid}}'

	systemctl stop hezi.socket hezi.service
	check "a daemon that does not run" "systemctl start hezi" sh -c 'hezi ps; true'
	systemctl start hezi
	code "Docker's names" 0 dpkg -i /test/hezi-docker-2.0.deb
	check "docker is hezi" "box" docker ps
	check "at Docker's socket" "box" hezi -H unix:///run/docker.sock ps
	hezi kill web >/dev/null # by hand, so it stays
	echo 2 >/var/stage
	echo $bad >/var/bad
	sync
	echo "the machine reboots"
	systemctl reboot
	exit
fi
echo "it has booted again, $(uptime) s"
eventually sh -c 'hezi ps | grep -q box'
check "started at boot" "running" of box '{{.State.Status}}'
check "what was stopped by hand is not" "exited" of web '{{.State.Status}}'
check "Docker's socket after a boot" "box" hezi -H unix:///run/docker.sock ps
code "remove Docker's names" 0 dpkg -r hezi-docker
check "they are gone" "No such file" ls /run/docker.sock
pid=$(of box '{{.State.Pid}}')
code "remove" 0 dpkg -r hezi
check "its containers are stopped" "No such file" ls "/proc/$pid"
check "their data stays" "hezi.db" ls /var/lib/hezi
code "install again" 0 dpkg -i --force-confold /test/hezi-2.0.deb
check "it runs again" "is active" sh -c 'echo "is $(systemctl is-active hezi.service)"'
check "with its containers" "box" hezi ps -a
code "purge" 0 dpkg -P hezi
check "nothing stays" "No such file" ls -d /var/lib/hezi
check "no configuration" "No such file" ls -d /etc/hezi
check "no AppArmor profile" "No such file" ls /etc/apparmor.d/hezi-default
check "no unit" "ok" sh -c 'systemctl list-unit-files --no-legend "hezi*" | grep -v hezi-test || echo ok'
check "no group" "ok" sh -c 'getent group hezi || echo ok'
check "no process" "ok" sh -c 'ps -e -o comm= 2>/dev/null | grep hezi || cat /proc/[0-9]*/comm | grep hezi || echo ok'
end
