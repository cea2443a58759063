package tutorial

import (
	"image"
	"image/color"
	"testing"
	"time"
)

// noVNC says where its page is: connect, password, the size of the desktop that it
// shows, or something else on the way to these.
const noVNC = `(() => {
	const root = document.documentElement.classList
	const open = id => document.getElementById(id)?.classList.contains("noVNC_open")
	if (root.contains("noVNC_loading")) return "loading"
	if (open("noVNC_credentials_dlg")) return "password"
	if (open("noVNC_connect_dlg")) return "connect"
	const screen = document.querySelector(".noVNC_connected #noVNC_container canvas")
	return screen ? screen.width + "x" + screen.height : root.value
})()`

// patience with a page: a browser gives up what it loads when the host's addresses
// change, as they do when containers start elsewhere.
const patience = 5 * time.Second

// photograph is how many colours a wallpaper has, and no page of noVNC's own.
const photograph = 10_000

// desktop sees a desktop of the size by noVNC, once the password is typed.
func desktop(t testing.TB, url, password, size string) {
	t.Helper()
	b := open(t, 1400, 900)
	empty := b.screenshot()
	var locked image.Image
	var visited time.Time
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		switch state := b.text(noVNC); {
		case state == "connect":
			b.text(`document.getElementById("noVNC_connect_button").click()`)
		case state == "password":
			if locked = b.screenshot(); colours(locked) >= photograph {
				t.Fatal("the desktop is seen before the password is typed")
			}
			b.text(`document.getElementById("noVNC_password_input").focus()`)
			b.types(password)
		case state == size:
			seen := b.screenshot()
			if locked != nil && differ(seen, empty) > seen.Bounds().Dx()*seen.Bounds().Dy()/2 && colours(seen) >= photograph {
				return
			}
		case time.Since(visited) > patience:
			b.visit(url)
			visited = time.Now()
		}
	}
	b.fail("this is no desktop of " + size)
}

// colours counts the colours of an image.
func colours(img image.Image) int {
	seen := map[color.Color]struct{}{}
	each(img, func(x, y int) { seen[img.At(x, y)] = struct{}{} })
	return len(seen)
}

// differ counts the points that two images of one size do not share.
func differ(a, b image.Image) (n int) {
	each(a, func(x, y int) {
		if a.At(x, y) != b.At(x, y) {
			n++
		}
	})
	return n
}

func each(img image.Image, f func(x, y int)) {
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			f(x, y)
		}
	}
}
