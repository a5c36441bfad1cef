package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-dr/holdfast/replicate"
)

// unpackedMost is how many bytes the records of one batch may take. Brokers
// bound what is stored, not what it unpacks to: a megabyte of zeros becomes
// gigabytes.
const unpackedMost = 128 << 20

var errUnpacked = fmt.Errorf("its records unpack to more than they may, %d MiB at most", unpackedMost>>20)

var errXerial = errors.New("the snappy frame is cut off")

// unpack returns the records of a batch without their compression.
func unpack(payload []byte, codec int8) ([]byte, error) {
	return unpackWithin(unpackedMost, payload, codec)
}

// unpackWithin is unpack with a bound of at most unpackedMost.
func unpackWithin(most int, payload []byte, codec int8) ([]byte, error) {
	switch kgo.CompressionCodecType(codec) {
	case kgo.CodecNone:
		return payload, nil
	case kgo.CodecGzip:
		r := ungzips.Get().(*gzip.Reader)
		defer ungzips.Put(r)
		if err := r.Reset(bytes.NewReader(payload)); err != nil {
			return nil, err
		}
		return readBounded(most, r)
	case kgo.CodecLz4:
		r := unlz4s.Get().(*lz4.Reader)
		defer unlz4s.Put(r)
		r.Reset(bytes.NewReader(payload))
		return readBounded(most, r)
	case kgo.CodecSnappy:
		return unpackSnappy(most, payload)
	case kgo.CodecZstd:
		out, err := unzstd().DecodeAll(payload, nil)
		if errors.Is(err, zstd.ErrDecoderSizeExceeded) || len(out) > most {
			return nil, errUnpacked
		}
		return out, err
	}
	return nil, fmt.Errorf("unknown codec %d", codec)
}

// Readers are large and batches are many.
var (
	ungzips = sync.Pool{New: func() any { return new(gzip.Reader) }}
	unlz4s  = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
)

// unzstd is safe for use by many; it starts no goroutine.
var unzstd = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(unpackedMost))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
})

func readBounded(most int, r io.Reader) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err == nil && len(out) > most {
		err = errUnpacked
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// xerial is how Java clients begin their frame around snappy blocks: a magic,
// then two versions.
var xerial = []byte{130, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeader = 16

func unpackSnappy(most int, payload []byte) ([]byte, error) {
	if len(payload) < xerialHeader || !bytes.HasPrefix(payload, xerial) {
		return appendSnappy(most, nil, payload)
	}
	var out []byte
	for payload = payload[xerialHeader:]; len(payload) > 0; {
		if len(payload) < 4 {
			return nil, errXerial
		}
		size := int64(binary.BigEndian.Uint32(payload))
		if size > int64(len(payload)-4) {
			return nil, errXerial
		}
		var err error
		if out, err = appendSnappy(most, out, payload[4:4+size]); err != nil {
			return nil, err
		}
		payload = payload[4+size:]
	}
	return out, nil
}

func appendSnappy(most int, dst, block []byte) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	if err != nil {
		return nil, err
	}
	if n > most-len(dst) {
		return nil, errUnpacked
	}
	part, err := s2.Decode(nil, block)
	if err != nil {
		return nil, err
	}
	if dst == nil {
		return part, nil
	}
	return append(dst, part...), nil
}

// packers are the compressors by codec. They keep what they need in pools.
var packers = sync.OnceValue(func() (out [5]kgo.Compressor) {
	for i, c := range []kgo.CompressionCodec{kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		p, err := kgo.DefaultCompressor(c)
		if err != nil {
			panic(err) // the codecs are constants
		}
		out[i+1] = p
	}
	return out
})

// packer returns the compression of a codec, nil for none.
func packer(codec int8) replicate.Compress {
	if codec == 0 {
		return nil
	}
	return func(payload []byte) ([]byte, error) {
		all := packers()
		if int(codec) >= len(all) {
			return nil, fmt.Errorf("unknown codec %d", codec)
		}
		out, used := all[codec].Compress(new(bytes.Buffer), payload)
		if used != kgo.CompressionCodecType(codec) {
			return nil, fmt.Errorf("compress with codec %d: the compressor gave up", codec)
		}
		return out, nil
	}
}
