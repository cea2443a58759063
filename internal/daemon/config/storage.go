package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"hezi/internal/snapshot/choose"
)

// checkStorage checks the storage driver's name and options.
func (c *Config) checkStorage() error {
	if _, err := choose.Name(c.StorageDriver); err != nil {
		return err
	}
	_, err := c.LayerSize()
	return err
}

// LayerSize is what each container may take on disk that does not say it, in
// bytes; 0: nothing bounds it.
func (c *Config) LayerSize() (size int64, err error) {
	for _, o := range c.StorageOpts {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			return 0, fmt.Errorf("storage-opts: %q: KEY=VALUE is needed", o)
		}
		driver, name, _ := strings.Cut(strings.ToLower(key), ".")
		if name == "" && (driver == "size" || driver == "override_kernel_check") {
			driver, name = "overlay2", driver
		}
		used, err := choose.Name(c.StorageDriver)
		if err != nil {
			return 0, err
		}
		option, err := choose.Name(driver)
		switch {
		case err != nil || option == "" || name == "":
			return 0, fmt.Errorf("storage-opts: unknown option %s: overlay2.size=SIZE and overlay2.override_kernel_check=BOOL are possible", key)
		case used != "" && used != option:
			return 0, fmt.Errorf("storage-opts: %s is an option of %s, and storage-driver is %s: remove one of them", key, option, used)
		case option == "overlay2" && name == "size":
			if size, err = units.RAMInBytes(value); err != nil || size < 1<<20 {
				return 0, fmt.Errorf("storage-opts: invalid size %q of %s: write a size of a megabyte or more, as in overlay2.size=10G", value, key)
			}
		case option == "overlay2" && name == "override_kernel_check": // every kernel is tried, whatever its version
			if _, err := strconv.ParseBool(value); err != nil {
				return 0, fmt.Errorf("storage-opts: %s needs true or false, not %q", key, value)
			}
		default:
			return 0, fmt.Errorf("storage-opts: unknown option %s of %s: overlay2.size=SIZE and overlay2.override_kernel_check=BOOL are possible", key, option)
		}
	}
	return size, nil
}
