package main

import (
	"fmt"
	"html"
	"strings"
)

// greeting is what `hezi run hezi/hello` prints.
func greeting(facts []fact) string {
	var b strings.Builder
	b.WriteString(`Hello from inside a box!  盒子里的你好！

What just happened:
  1. hezi asked the engine, hezid, for a container of the image hezi/hello,
     which the engine carries with it: nothing was pulled.
  2. The keeper cut out namespaces, a root file system and a cgroup, and
     started this program in them. It holds the box from here on, even
     while hezid restarts.
  3. This program's output came back to your terminal.

What this box looks like from inside:
`)
	for _, f := range facts {
		fmt.Fprintf(&b, "  %-17s %s\n", f.name, f.value)
	}
	b.WriteString(`
What to try next:
  hezi run --rm -m 64m --cpus 0.5 hezi/hello             watch the limits change
  hezi run -d --name web -p 8080:8080 hezi/hello serve   then open http://localhost:8080/
  hezi exec web /hello                                   look into the running box
  hezi run -it --rm busybox sh                           a shell, from a registry
`)
	return b.String()
}

const style = `:root{color-scheme:light dark;--ink:#1d2a33;--dim:#5b6b76;--paper:#f6f3ec;--card:#fffdf8;--line:#ded7c8;--box:#b5652b}
@media(prefers-color-scheme:dark){:root{--ink:#e9e4d8;--dim:#9aa5ab;--paper:#14191d;--card:#1c2328;--line:#333c42;--box:#e09a5c}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 system-ui,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
main{max-width:44rem;margin:0 auto;padding:4rem 1.25rem}svg{width:4.5rem;height:4.5rem;stroke:var(--box);fill:none;stroke-width:2.5;stroke-linejoin:round}
h1{margin:1rem 0 0;font-size:2.4rem;line-height:1.15;letter-spacing:-.02em}h1+p{margin:.25rem 0 2rem;font-size:1.35rem;color:var(--box)}
table{width:100%;border-collapse:collapse;background:var(--card);border:1px solid var(--line);border-radius:.75rem;overflow:hidden;border-spacing:0}
th,td{padding:.5rem 1rem;text-align:left;vertical-align:top;border-top:1px solid var(--line)}tr:first-child>*{border-top:0}
th{width:36%;font-weight:500;color:var(--dim)}td{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.9rem;overflow-wrap:anywhere}footer{margin-top:2rem;color:var(--dim);font-size:.9rem}`

// page is the same as a web page, whole in itself.
func page(facts []fact) string {
	var b strings.Builder
	b.WriteString("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">" +
		"<title>Hello from a box · 盒子</title><link rel=\"icon\" href=\"data:,\"><style>" + style + "</style></head>\n<body><main>\n" +
		`<svg viewBox="0 0 48 48" aria-hidden="true"><path d="M24 4 42 14v20L24 44 6 34V14zM6 14l18 10 18-10M24 24v20M15 9l18 10"/></svg>` +
		"\n<h1>Hello from inside a box</h1><p lang=\"zh\">盒子里的你好！</p>\n<table>\n")
	for _, f := range facts {
		fmt.Fprintf(&b, "<tr><th scope=\"row\">%s</th><td>%s</td></tr>\n", html.EscapeString(f.name), html.EscapeString(f.value))
	}
	b.WriteString("</table>\n<footer>Served by <code>hezi/hello</code>, a small static program in a container of its own. " +
		"<span lang=\"zh\">由容器中的一个小程序提供。</span></footer>\n</main></body></html>\n")
	return b.String()
}
