// Package demo is a dataflow that shows brokerd at work, and checks it: five
// processes, 30 pictures of 640x480 a second, real photographs.
//
//	timer ─► camera ─► edges ──► sink     every picture is compared with
//	            ├────► motion ──►         what it must be
//	            └────► slow               takes 50 ms each: drops show
//
// The camera pans and zooms over the photographs of package vision. It renders
// each picture into shared memory that it borrows from the broker; edges reads
// it there and writes an edge picture into shared memory of its own; motion
// finds out from two consecutive pictures how far the camera moved. The sink
// knows no more of a picture than its number: it renders it again, applies the
// filter, and compares every byte, and every pan with the true one.
//
// The inputs on the way to the sink have policy block: the camera waits rather
// than lose a picture. The input of slow holds one picture and drops older
// ones.
//
// RunNode is what each of the five processes runs. Run starts a broker, or uses
// a running one, starts the five, watches, shows, ends them, and decides whether
// what was promised was kept.
package demo
