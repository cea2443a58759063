# What the scripts that run inside the virtual machines have in common.
bad=0
check() { # check NAME WANT COMMAND...: the command's output must hold WANT
	name=$1 want=$2
	shift 2
	got=$("$@" 2>&1)
	case $got in
	*"$want"*) echo "ok   $name" ;;
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
	if [ $c = "$want" ]; then echo "ok   $name"; else
		echo "FAIL $name: want code $want, got $c: $got"
		bad=1
	fi
}
uptime() { cut -d. -f1 /proc/uptime; }
eventually() { # eventually COMMAND...: until it succeeds, or three minutes are over: an emulated machine is slow
	begun=$(uptime)
	until "$@" >/dev/null 2>&1; do
		[ $(($(uptime) - begun)) -lt 180 ] || return 1
		sleep 0.3
	done
}
