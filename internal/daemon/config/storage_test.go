package config

import "testing"

func TestLayerSize(t *testing.T) {
	for _, tc := range []struct {
		driver  string
		options []string
		size    int64
		bad     bool
	}{
		{"", nil, 0, false},
		{"", []string{"overlay2.size=10G"}, 10 << 30, false},
		{"overlay", []string{"overlay.size=2m", "overlay2.override_kernel_check=true"}, 2 << 20, false},
		{"overlay2", []string{"size=10G"}, 10 << 30, false},
		{"vfs", []string{"overlay2.size=10G"}, 0, true},
		{"btrfs", []string{"btrfs.min_space=10G"}, 0, true},
	} {
		c := Config{StorageDriver: tc.driver, StorageOpts: tc.options}
		size, err := c.LayerSize()
		if size != tc.size || (err != nil) != tc.bad {
			t.Errorf("%s %q: %d, %v", tc.driver, tc.options, size, err)
		}
	}
}
