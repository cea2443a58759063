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
eventually() { # eventually COMMAND...
	for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		"$@" >/dev/null 2>&1 && return
		sleep 0.3
	done
}
