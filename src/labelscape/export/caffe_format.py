"""The part of Caffe's file format that holds published weights: a protobuf NetParameter.

Format    https://github.com/BVLC/caffe/blob/master/src/caffe/proto/caffe.proto; the few fields
          needed are declared here, and the `protobuf` library does the parsing
"""

from __future__ import annotations

from functools import cache

MESSAGES = {
    "BlobShape": "dim:1:int64[]",
    "BlobProto": (
        "shape:7:BlobShape data:5:float[] double_data:8:double[] num:1:int32 channels:2:int32 "
        "height:3:int32 width:4:int32"
    ),
    "ConvolutionParameter": "num_output:1:uint32 pad:3:uint32[] kernel_size:4:uint32[] stride:6:uint32[] "
    "dilation:18:uint32[] "
    "group:5:uint32 "
    "pad_h:9:uint32 pad_w:10:uint32 kernel_h:11:uint32 kernel_w:12:uint32 stride_h:13:uint32 "
    "stride_w:14:uint32",
    "PoolingParameter": "pool:1:int32 kernel_size:2:uint32 stride:3:uint32 pad:4:uint32",
    "EltwiseParameter": "operation:1:int32 coeff:2:float[]",
    "BatchNormParameter": "eps:3:float",
    "LayerParameter": "name:1:string type:2:string bottom:3:string[] top:4:string[] blobs:7:BlobProto[] "
    "eltwise_param:110:EltwiseParameter "
    "convolution_param:106:ConvolutionParameter pooling_param:121:PoolingParameter "
    "batch_norm_param:139:BatchNormParameter",
    "V1LayerParameter": "name:4:string",
    "NetParameter": "name:1:string layers:2:V1LayerParameter[] layer:100:LayerParameter[]",
}
"""caffe.proto as far as we read it: message -> name:number:type of its fields, [] for a repeated one;
other fields are skipped.
"""


@cache
def message_types() -> dict[str, type]:
    """The classes of `MESSAGES`, built at run time: name -> protobuf message class."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    Field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="labelscape_caffe.proto", package="caffe", syntax="proto2")
    for message_name, fields in MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for text in fields.split():
            name, number, kind = text.split(":")
            many, kind = kind.endswith("[]"), kind.removesuffix("[]")
            added = message.field.add(
                name=name, number=int(number), label=Field.LABEL_REPEATED if many else Field.LABEL_OPTIONAL
            )
            if kind in MESSAGES:
                added.type, added.type_name = Field.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                added.type = getattr(Field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in MESSAGES
    }
