// Package logs writes and reads the log files of containers. The keeper links
// the writer; the engine and the keeper link the reader. No HTTP.
//
// json-file is Docker's format, one record a line:
//
//	{"log":"text\n","stream":"stdout","attrs":{...},"time":"2006-01-02T15:04:05.999999999Z"}
//
// A line over 16 KiB is several records, and only its last ends in a newline.
// Text that is not UTF-8 has one field more, "raw" (base64), which Docker's
// readers ignore and ours prefer, so that every byte comes back.
//
// "local" writes the same records to its own path.
//
// Files: PATH is the current one, PATH.1 the one before (PATH.1.gz when
// compressed), up to PATH.(MaxFiles-1); PATH.pack is one that is being
// compressed. A number that is missing is a rotation that was cut off: the next
// one fills it. A compressed file is gzip members of 1 MiB of records each, whose
// headers are an index by size and time. Records have times that only grow, so that a file is known by
// the time of its first one. In one process each file has a
// generation, counted up by each rotation, so that a reader finds the next
// file under whatever name it has by then.
package logs
