package plan

import (
	"encoding/binary"
	"errors"
	"reflect"
)

var errShort = errors.New("plan: message is cut short")

// Encode writes v, a pointer to a struct of this package.
func Encode(v any) []byte {
	return appendValue(make([]byte, 0, 128), reflect.ValueOf(v).Elem())
}

// Decode fills v, a pointer to a struct of this package, from b.
func Decode(b []byte, v any) error {
	_, err := readValue(b, reflect.ValueOf(v).Elem())
	return err
}

func appendValue(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case reflect.Int:
		return binary.AppendVarint(b, v.Int())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return binary.AppendUvarint(b, v.Uint())
	case reflect.String:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		return append(b, v.String()...)
	case reflect.Slice:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return append(b, v.Bytes()...)
		}
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			b = appendValue(b, v.Index(i))
		}
		return b
	case reflect.Struct:
		for i := range v.NumField() {
			b = appendValue(b, v.Field(i))
		}
		return b
	}
	panic("plan: cannot encode a " + v.Type().String())
}

func readUvarint(b []byte) (uint64, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0, nil, errShort
	}
	return n, b[size:], nil
}

func readValue(b []byte, v reflect.Value) ([]byte, error) {
	switch v.Kind() {
	case reflect.Bool:
		if len(b) == 0 {
			return nil, errShort
		}
		v.SetBool(b[0] != 0)
		return b[1:], nil
	case reflect.Int:
		n, size := binary.Varint(b)
		if size <= 0 {
			return nil, errShort
		}
		v.SetInt(n)
		return b[size:], nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, rest, err := readUvarint(b)
		if err == nil {
			v.SetUint(n)
		}
		return rest, err
	case reflect.String, reflect.Slice:
		n, rest, err := readUvarint(b)
		if err != nil || n > uint64(len(rest)) { // an element takes a byte at least
			return nil, errShort
		}
		return readMany(rest, v, int(n))
	case reflect.Array:
		return readEach(b, v)
	case reflect.Struct:
		var err error
		for i := 0; i < v.NumField() && err == nil; i++ {
			b, err = readValue(b, v.Field(i))
		}
		return b, err
	}
	panic("plan: cannot decode a " + v.Type().String())
}

func readMany(b []byte, v reflect.Value, n int) ([]byte, error) {
	if v.Kind() == reflect.String {
		v.SetString(string(b[:n]))
		return b[n:], nil
	}
	if n == 0 {
		return b, nil
	}
	if v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetBytes(append([]byte(nil), b[:n]...))
		return b[n:], nil
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	return readEach(b, v)
}

func readEach(b []byte, v reflect.Value) ([]byte, error) {
	var err error
	for i := 0; i < v.Len() && err == nil; i++ {
		b, err = readValue(b, v.Index(i))
	}
	return b, err
}
