# Read by the scripts that build for a machine: what is built where tests run would
# change the programs under them.
# source_in DIR: what is here, without what was built.
source_in() {
	mkdir -p "$1"
	git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh | tar --null -T - -c | tar -x -C "$1"
}
