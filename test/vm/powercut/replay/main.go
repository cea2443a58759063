// Replay makes the disk as it may be after the power went at some moment: it
// applies a log of writes that qemu's blklogwrites driver made (its format is
// that of Linux' dm-log-writes) up to that moment, and of the writes that
// followed the last flush some and not others, as a disk with a write cache
// keeps them.
//
// Usage: replay count LOG
//
//	replay LOG DISK ENTRIES SEED     changes DISK, which was empty before the first entry
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
)

const (
	magic     = 0x6a736677736872
	flagFlush = 1
	flagFUA   = 2
	flagTrim  = 4
	flagMark  = 8
	page      = 4096
)

type entry struct {
	sector, sectors, flags, length uint64
	at                             int64 // of its data in the log
}

func main() {
	log.SetFlags(0)
	if len(os.Args) == 3 && os.Args[1] == "count" {
		list, _, err := read(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(list))
		return
	}
	if len(os.Args) != 5 {
		log.Fatal("usage: replay count LOG | replay LOG DISK ENTRIES SEED")
	}
	n, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	seed, err := strconv.ParseUint(os.Args[4], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	if err := replay(os.Args[1], os.Args[2], n, rand.New(rand.NewPCG(seed, uint64(n)))); err != nil {
		log.Fatal(err)
	}
}

// read lists the entries of a log. Its superblock may be behind: the machine
// ended by a kill.
func read(path string) ([]entry, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	var super struct {
		Magic, Version, Entries uint64
		SectorSize              uint32
	}
	if err := binary.Read(f, binary.LittleEndian, &super); err != nil {
		return nil, 0, err
	}
	if super.Magic != magic || super.SectorSize == 0 {
		return nil, 0, errors.New("this is no log of writes")
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size := int64(super.SectorSize)
	var list []entry
	for at := size; at+size <= st.Size(); {
		var raw [4]uint64
		if err := binary.Read(bufio.NewReader(io.NewSectionReader(f, at, 32)), binary.LittleEndian, &raw); err != nil {
			return nil, 0, err
		}
		e := entry{sector: raw[0], sectors: raw[1], flags: raw[2], length: raw[3], at: at + size}
		if raw == [4]uint64{} { // not written yet
			break
		}
		at += size
		if e.flags&flagTrim == 0 {
			data := int64(e.sectors) * size
			if e.flags&flagMark != 0 {
				data = (int64(e.length) + size - 1) / size * size
			}
			if at += data; at > st.Size() {
				break
			}
		}
		list = append(list, e)
	}
	return list, size, nil
}

func replay(path, disk string, n int, r *rand.Rand) error {
	list, size, err := read(path)
	if err != nil {
		return err
	}
	list = list[:min(n, len(list))]
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	flushed := 0 // entries before it are on the disk
	for i, e := range list {
		if e.flags&flagFlush != 0 {
			flushed = i
		}
	}
	kept := 0
	for i, e := range list {
		if e.flags&(flagMark|flagTrim) != 0 || e.sectors == 0 {
			continue // what was trimmed may stay as it was
		}
		data := make([]byte, int64(e.sectors)*size)
		if _, err := in.ReadAt(data, e.at); err != nil {
			return err
		}
		at := int64(e.sector) * size
		if i < flushed || e.flags&flagFUA != 0 {
			if _, err := out.WriteAt(data, at); err != nil {
				return err
			}
			continue
		}
		for len(data) > 0 { // a write may get through in parts
			m := min(page, len(data))
			if r.IntN(2) == 0 {
				kept++
				if _, err := out.WriteAt(data[:m], at); err != nil {
					return err
				}
			}
			data, at = data[m:], at+int64(m)
		}
	}
	fmt.Printf("%d writes, %d of them after the last flush, of whose pages %d got through\n", len(list), len(list)-flushed, kept)
	return out.Sync()
}
