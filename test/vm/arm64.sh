# Read by engine.sh: the programs of arm64, built from what is here in a folder of its
# own, and Debian's kernel and busybox of arm64, which are fetched once into CACHE.
# Sets bin, base (where boot and lib/modules are) and busybox.
cache=${CACHE:-/var/cache/hezi-vm}
base=$cache/arm64 busybox=$cache/arm64/bin/busybox

fetch() {
	apt=$dir/apt root=$dir/arm64
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root"
	: >"$apt/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${MIRROR:-http://deb.debian.org/debian} bookworm main" >"$apt/sources.list"
	cat >"$apt/conf" <<-CONF
		APT::Architecture "arm64";
		APT::Architectures { "arm64"; };
		APT::Sandbox::User "root";
		Dir::State::lists "$apt/lists";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt/cache";
		Dir::Etc::sourcelist "$apt/sources.list";
		Dir::Etc::sourceparts "-";
	CONF
	apt-get -qq -c "$apt/conf" update
	image=$(apt-cache -c "$apt/conf" depends linux-image-cloud-arm64 | sed -n 's/^ *Depends: //p')
	(cd "$apt" && apt-get -qq -c "$apt/conf" download busybox-static "$image")
	for package in "$apt"/*.deb; do dpkg-deb -x "$package" "$root"; done
	depmod -b "$root" "${image#linux-image-}"
	rm -rf "$base.new"
	mkdir -p "$base.new/boot" "$base.new/bin"
	cp -a "$root/bin/busybox" "$base.new/bin/"
	cp -a "$root/lib" "$base.new/"
	cp -a "$root"/boot/vmlinuz-* "$base.new/boot/"
	mv "$base.new" "$base"
	rm -rf "$apt" "$root"
}
if [ ! -e "$base" ]; then
	echo "Debian's kernel and busybox of arm64 are fetched"
	fetch
fi

if [ -z "${BIN-}" ]; then
	. test/vm/source.sh
	source_in "$dir/source"
	make -s -C "$dir/source" build ARCH=arm64 VERSION=arm64 >"$dir/build.log" 2>&1 || { tail "$dir/build.log"; echo FAIL; exit 1; }
	bin=$dir/source/bin
fi
