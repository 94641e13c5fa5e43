package vision

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	_ "image/jpeg" // the formats of the sample photographs
	_ "image/png"

	"github.com/brokerd/brokerd/testdata"
)

// Photo is a picture of 3 bytes a pixel, rows from the top.
type Photo struct {
	Name          string
	Width, Height int
	Pix           []byte // Width*Height*3, and a spare byte behind it for 4-byte loads
}

// photographs lists the pictures in the order the camera shows them, and how
// much each is enlarged (by a fraction, to stay with integers) so that the
// frame has room to move in it.
var photographs = []struct {
	file     string
	num, den int
}{
	{"chelsea.png", 11, 4}, // 451x300
	{"coffee.png", 2, 1},   // 600x400
	{"rocket.jpg", 2, 1},   // 640x427
}

// LoadPhotos decodes and enlarges the sample photographs. It takes some tenths
// of a second: call it once.
func LoadPhotos() ([]Photo, error) {
	var photos []Photo
	for _, p := range photographs {
		data, err := testdata.Photographs.ReadFile("images/" + p.file)
		if err != nil {
			return nil, err
		}
		decoded, _, err := image.Decode(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("photograph %s: %w", p.file, err)
		}
		photo := fromImage(decoded)
		photo = enlarge(photo, photo.Width*p.num/p.den, photo.Height*p.num/p.den)
		photo.Name = p.file
		photos = append(photos, photo)
	}
	return photos, nil
}

func newPhoto(width, height int) Photo {
	return Photo{Width: width, Height: height, Pix: make([]byte, width*height*3, width*height*3+1)}
}

func fromImage(img image.Image) Photo {
	bounds := img.Bounds()
	photo := newPhoto(bounds.Dx(), bounds.Dy())
	i := 0
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			c := color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)
			photo.Pix[i], photo.Pix[i+1], photo.Pix[i+2] = c.R, c.G, c.B
			i += 3
		}
	}
	return photo
}

// tap says which four source samples make one sample of the enlarged picture.
type tap struct {
	index  [4]int
	weight [4]int32 // sum is 1<<tapBits
}

const tapBits = 14

// taps computes the Catmull-Rom kernel (Keys 1981, a = -1/2) for every sample
// along one axis. It is sharper than bilinear and rings less than Lanczos at
// these factors. Integers only: the result must be the same on every machine.
func taps(from, to int) []tap {
	out := make([]tap, to)
	for i := range out {
		// Centre of sample i in source coordinates, in 1/65536 of a sample.
		center := (int64(2*i+1)*int64(from)<<16)/int64(2*to) - 1<<15
		base := center >> 16
		t := center & 0xffff
		t2 := t * t >> 16
		t3 := t2 * t >> 16
		const one = 1 << 16
		// Twice the kernel, so that its halves stay whole.
		twice := [4]int64{
			-t3 + 2*t2 - t,
			3*t3 - 5*t2 + 2*one,
			-3*t3 + 4*t2 + t,
			t3 - t2,
		}
		sum := int32(0)
		for j, w := range twice {
			out[i].index[j] = min(max(int(base)+j-1, 0), from-1)
			out[i].weight[j] = int32(w >> (17 - tapBits))
			sum += out[i].weight[j]
		}
		out[i].weight[1] += 1<<tapBits - sum // what rounding lost
	}
	return out
}

func enlarge(p Photo, width, height int) Photo {
	across := resampleRows(p, taps(p.Width, width))
	return resampleColumns(across, taps(p.Height, height))
}

func resampleRows(p Photo, kernel []tap) Photo {
	out := newPhoto(len(kernel), p.Height)
	for y := range p.Height {
		row := p.Pix[y*p.Width*3:][:p.Width*3]
		dst := out.Pix[y*out.Width*3:][:out.Width*3]
		for x := range kernel {
			k := &kernel[x]
			for c := range 3 {
				sum := int32(1 << (tapBits - 1))
				for j, i := range k.index {
					sum += k.weight[j] * int32(row[i*3+c])
				}
				dst[x*3+c] = clampByte(sum >> tapBits)
			}
		}
	}
	return out
}

func resampleColumns(p Photo, kernel []tap) Photo {
	stride := p.Width * 3
	out := newPhoto(p.Width, len(kernel))
	for y := range kernel {
		k := &kernel[y]
		r0 := p.Pix[k.index[0]*stride:][:stride]
		r1 := p.Pix[k.index[1]*stride:][:stride]
		r2 := p.Pix[k.index[2]*stride:][:stride]
		r3 := p.Pix[k.index[3]*stride:][:stride]
		dst := out.Pix[y*stride:][:stride]
		for i := range dst {
			sum := k.weight[0]*int32(r0[i]) + k.weight[1]*int32(r1[i]) +
				k.weight[2]*int32(r2[i]) + k.weight[3]*int32(r3[i])
			dst[i] = clampByte((sum + 1<<(tapBits-1)) >> tapBits)
		}
	}
	return out
}

func clampByte(v int32) byte {
	return byte(min(max(v, 0), 255))
}
