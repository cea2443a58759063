// Package tiny tests hezi-tiny, the init of containers with --init. The
// program itself is tiny.c, which explains how it is called.
package tiny
