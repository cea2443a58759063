# What the scripts that run inside the virtual machines have in common.
bad=0
# "ok" has how many seconds after the boot it was: what takes the time is seen.
ok() { echo "ok   $1 ($(uptime) s)"; }
check() { # check NAME WANT COMMAND...: the command's output must hold WANT
	name=$1 want=$2
	shift 2
	got=$("$@" 2>&1)
	case $got in
	*"$want"*) ok "$name" ;;
	*)
		echo "FAIL $name: want '$want', got: $got"
		bad=1
		;;
	esac
}
code() { # code NAME WANT COMMAND...: the exit code
	name=$1 want=$2
	shift 2
	got=$("$@" 2>&1)
	c=$?
	if [ $c = "$want" ]; then ok "$name"; else
		echo "FAIL $name: want code $want, got $c: $got"
		bad=1
	fi
}
uptime() {
	read -r now _ </proc/uptime
	echo "${now%.*}"
}
eventually() { # eventually COMMAND...: until it succeeds, or ten minutes are over: a machine that is emulated beside other tests is slow
	begun=$(uptime)
	until "$@" >/dev/null 2>&1; do
		if [ $(($(uptime) - begun)) -ge 600 ]; then
			echo "ten minutes were not enough for: $*"
			return 1
		fi
		sleep 0.3
	done
}
