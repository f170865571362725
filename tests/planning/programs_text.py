"""Small programs as a TPU's compiler writes them, and what stands around them."""

from gpt2jax.planning.collectives import Network

# A loop of 5 turns around a product of 2000 cycles and an addition without an estimate, then a copy.
LOOP = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

FileNames
1 "/somewhere/step.py"

%product (p0: bf16[128,256], p1: bf16[256,512]) -> bf16[128,512] {
  %p0 = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[256,512]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[128,512]{1,0:T(8,128)(2,1)} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%condition (state: (s32[], bf16[128,256], bf16[256,512], bf16[128,512])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(6)
  %state = (s32[]{:T(128)}, bf16[128,256]{1,0}, bf16[256,512]{1,0}, /*index=3*/bf16[128,512]{1,0}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %constant.5), direction=LT
}

%body (state.1: (s32[], bf16[128,256], bf16[256,512], bf16[128,512])) -> (s32[], bf16[128,256], bf16[256,512], bf16[128,512]) {
  %state.1 = (s32[]{:T(128)}, bf16[128,256]{1,0}, bf16[256,512]{1,0}, bf16[128,512]{1,0}) parameter(0)
  %g0 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %g1 = bf16[128,256]{1,0:T(8,128)(2,1)} get-tuple-element(%state.1), index=1
  %g2 = bf16[256,512]{1,0:T(8,128)(2,1)} get-tuple-element(%state.1), index=2
  %fusion.1 = bf16[128,512]{1,0:T(8,128)(2,1)} fusion(%g1, %g2), kind=kOutput, calls=%product, metadata={op_name="jit(step)/while/body/closed_call/jvp(Block)/query/dot_general" stack_frame_id=1}, backend_config={"window_config":{"estimated_cycles":"2000"}}
  %add.2 = bf16[128,512]{1,0:T(8,128)(2,1)} add(%fusion.1, %fusion.1), metadata={op_name="jit(step)/while/body/add"}, backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
  ROOT %tuple.2 = (s32[]{:T(128)}, bf16[128,256]{1,0}, bf16[256,512]{1,0}, bf16[128,512]{1,0}) tuple(%g0, %g1, %g2, %add.2)
}

ENTRY %main (x: bf16[128,256], w: bf16[256,512], y: bf16[128,512]) -> bf16[128,512] {
  %x = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x[\\'a\\']"}
  %w = bf16[256,512]{1,0:T(8,128)(2,1)} parameter(1)
  %y = bf16[128,512]{1,0:T(8,128)(2,1)} parameter(2)
  %first = s32[]{:T(128)} constant(1)
  %tuple.1 = (s32[]{:T(128)}, bf16[128,256]{1,0}, bf16[256,512]{1,0}, bf16[128,512]{1,0}) tuple(%first, %x, %w, %y)
  %while.1 = (s32[]{:T(128)}, bf16[128,256]{1,0}, bf16[256,512]{1,0}, bf16[128,512]{1,0}) while(%tuple.1), condition=%condition, body=%body, metadata={op_name="jit(step)/while"}
  %result = bf16[128,512]{1,0:T(8,128)(2,1)} get-tuple-element(%while.1), index=3
  ROOT %copy.1 = bf16[128,512]{1,0:T(8,128)(2,1)} copy(%result), backend_config={"window_config":{"estimated_cycles":"3000"}}
}
"""  # noqa: E501

# A kernel's own text has newlines, and lines that look like HLO: none of it is an instruction.
KERNEL = """HloModule jit_step, is_scheduled=true

ENTRY %main (q: bf16[2,12,1024,64], k: bf16[2,12,1024,64], v: bf16[2,12,1024,64]) -> bf16[2,12,1024,64] {
  %q = bf16[2,12,1024,64]{3,2,1,0} parameter(0)
  %k = bf16[2,12,1024,64]{3,2,1,0} parameter(1)
  %v = bf16[2,12,1024,64]{3,2,1,0} parameter(2)
  %splash_mha_fwd.1 = (f32[2,1024,128]{2,1,0}, bf16[2,12,1024,64]{3,2,1,0}) custom-call(%q, %k, %v), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512, \\"block_kv\\": 512, \\"use_fused_bwd_kernel\\": true}"
  %0 = arith.constant 1 : i32
}}, metadata={op_name="jit(step)/vmap(splash)/splash_mha_fwd_residuals/pallas_call" stack_frame_id=6}, backend_config={"custom_call_config":{"body":"abc"}}
  ROOT %out = bf16[2,12,1024,64]{3,2,1,0} get-tuple-element(%splash_mha_fwd.1), index=1, frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(step)/vmap(splash)/splash_mha_fwd_residuals/pallas_call"}
}
"""  # noqa: E501

# An all-gather that begins before a product of 100,000 cycles and ends behind it, and an all-reduce that nothing hides.
OVERLAP = """HloModule jit_step, is_scheduled=true

%started (p: bf16[1024,1024]) -> (bf16[1024,1024], bf16[4096,1024], u32[]) {
  %p = bf16[1024,1024]{1,0} parameter(0)
  %all-gather.1 = bf16[4096,1024]{1,0} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  ROOT %custom-call.1 = (bf16[1024,1024]{1,0}, bf16[4096,1024]{1,0}, u32[]) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%between (p.1: bf16[1024,1024], q.1: bf16[1024,1024]) -> bf16[1024,1024] {
  %p.1 = bf16[1024,1024]{1,0} parameter(0)
  %q.1 = bf16[1024,1024]{1,0} parameter(1)
  %all-gather.2 = bf16[4096,1024]{1,0} all-gather(%q.1), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  ROOT %dot.1 = bf16[1024,1024]{1,0} convolution(%p.1, %p.1), dim_labels=bf_io->bf
}

%ended (p.2: bf16[1024,1024]) -> bf16[4096,1024] {
  %p.2 = bf16[1024,1024]{1,0} parameter(0)
  %all-gather.3 = bf16[4096,1024]{1,0} all-gather(%p.2), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  ROOT %custom-call.3 = bf16[4096,1024]{1,0} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: bf16[1024,1024]) -> bf16[1024,1024] {
  %a = bf16[1024,1024]{1,0} parameter(0)
  %fusion.1 = (bf16[1024,1024]{1,0}, bf16[4096,1024]{1,0}, u32[]) fusion(%a), kind=kCustom, calls=%started
  %fusion.2 = bf16[1024,1024]{1,0} fusion(%a, %a), kind=kOutput, calls=%between, backend_config={"window_config":{"estimated_cycles":"CYCLES"}}
  %fusion.3 = bf16[4096,1024]{1,0} fusion(%a), kind=kCustom, calls=%ended
  ROOT %all-reduce.1 = bf16[1024,1024]{1,0} all-reduce(%fusion.2), channel_id=8, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%sum
}
"""  # noqa: E501

LINK = 1e9


def network(link: float = LINK) -> Network:
    """Two by four devices: axis data along the first dimension, fsdp along the second; no rings."""
    places = tuple((i, j, 0) for i in range(2) for j in range(4))
    return Network({'data': 2, 'fsdp': 4}, places, (2, 4), (False, False), link, link / 10)


# A sum over two slices: a TPU's compiler sends the part of each device to the hosts, and receives the sum.
SLICES = """HloModule jit_step, is_scheduled=true

ENTRY %main (a: f32[1000,250]) -> f32[1000,250] {
  %a = f32[1000,250]{1,0} parameter(0)
  %token = token[] after-all()
  %send = (f32[1000,250]{1,0}, u32[], token[]) send(%a, %token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="psum.1_0",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[1000,250]{1,0}, u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="psum.1_0",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=1, is_host_transfer=true
  %recv-done = (f32[1000,250]{1,0}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %sum = f32[1000,250]{1,0} get-tuple-element(%recv-done), index=0
}
"""  # noqa: E501
